package mailgw

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// received makes our one trace line (M4; RFC 5321, 4.4; RFC 3848 names the protocol).
func received(helo string, remote net.Addr, hostname string, tls bool, id SendingID, now time.Time) []byte {
	protocol := "ESMTPA"
	if tls {
		protocol = "ESMTPSA"
	}
	from := cleanHelo(helo)
	if ip := ipOf(remote); ip.Is4() {
		from += " ([" + ip.String() + "])"
	} else if ip.IsValid() {
		from += " ([IPv6:" + ip.WithZone("").String() + "])"
	}
	return fmt.Appendf(nil, "Received: from %s\r\n\tby %s with %s id %s;\r\n\t%s\r\n",
		from, hostname, protocol, id, now.Format(time.RFC1123Z))
}

// cleanHelo returns what a client calls itself, as it may stand in a header.
func cleanHelo(s string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".-_:[]", r):
			return r
		}
		return '?'
	}, s[:min(len(s), 255)])
	if clean == "" {
		return "unknown"
	}
	return clean
}
