package authz

import (
	"strings"
	"testing"
)

// The full matrix of rows B1 to B4. A letter stands for an operation: l list, g get, p put, o choose, c change,
// s share, r revoke.
func TestB1B2B3B4_Matrix(t *testing.T) {
	t.Parallel()
	want := map[Role]map[Object]string{
		Member:   {Drive: "lgpocsr", Attachments: "lgpocsr", Grants: "lr"},
		Sender:   {Attachments: "lpo"},
		Receiver: {Granted: "lg"},
	}
	const letters = " lgpocsr"
	for role := range Role(Receiver + 3) {
		for object := range Object(lastObject + 3) {
			for op := range Op(lastOp + 3) {
				yes := int(op) > 0 && int(op) < len(letters) && strings.IndexByte(want[role][object], letters[op]) >= 0
				if got := May(role, op, object); got != yes {
					t.Errorf("%v, op %d, object %d: got %v, want %v", role, op, object, got, yes)
				}
			}
		}
	}
	if May(Role(255), Get, Granted) || May(0, List, Drive) {
		t.Error("an unknown role may do something")
	}
}

func TestRoleNames(t *testing.T) {
	t.Parallel()
	for role, want := range map[Role]string{0: "nobody", Member: "member", Sender: "sender", Receiver: "receiver", 9: "nobody"} {
		if got := role.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
