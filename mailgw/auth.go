package mailgw

import (
	"bytes"

	"github.com/emersion/go-sasl"
)

// An authenticator checks a user's password. It is asked at most once.
type authenticator func(user, password string) error

// plainServer is the server of AUTH PLAIN (RFC 4616). go-sasl's parses it; ours says what is malformed.
type plainServer struct{ s sasl.Server }

func newPlain(check authenticator) sasl.Server {
	return plainServer{sasl.NewPlainServer(func(identity, user, password string) error {
		if identity != "" && identity != user {
			return errOwnAuthz
		}
		return check(user, password)
	})}
}

// Next implements sasl.Server.
func (p plainServer) Next(response []byte) ([]byte, bool, error) {
	if response != nil && bytes.Count(response, []byte{0}) != 2 {
		return nil, false, errBadSASL
	}
	return p.s.Next(response)
}

// loginServer is the server of AUTH LOGIN, which has no RFC: it asks for the user, then for the password. Some clients
// send the user along with the command.
type loginServer struct {
	check authenticator
	asked bool
	user  []byte
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case l.check == nil:
		return nil, false, sasl.ErrUnexpectedClientResponse
	case response == nil && l.asked:
		return nil, false, errBadSASL
	case response == nil:
		l.asked = true
		return []byte("Username:"), false, nil
	case l.user == nil:
		l.user = append([]byte{}, response...)
		l.asked = true
		return []byte("Password:"), false, nil
	}
	check := l.check
	l.check = nil
	if err := check(string(l.user), string(response)); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// A countedServer tells what came of an AUTH command. go-smtp counts none.
type countedServer struct {
	sasl.Server
	failed func(error) error
}

// Next implements sasl.Server.
func (c countedServer) Next(response []byte) ([]byte, bool, error) {
	challenge, done, err := c.Server.Next(response)
	if err != nil {
		return nil, false, c.failed(err)
	}
	return challenge, done, nil
}
