package tailnet

import (
	"fmt"
	"strings"
	"time"
)

// SSHCheck is a login by SSH that waits for a person, and then the person's word about it, which is remembered: a later
// login from the same node to the same node under the same name needs no other one for some time. It is a row, so that
// the client may wait at another server than the one that is told, and a restart forgets nothing.
type SSHCheck struct {
	ID        string `gorm:"primaryKey"` // in the form of Registration.ID
	TailnetID ID
	SrcID     NodeID
	DstID     NodeID
	Owner     string // whose node the source was: see OwnerOf; under another owner an approval is worth nothing
	Login     string // the name at the destination

	Verdict   SSHVerdict
	DecidedBy string
	DecidedAt *time.Time

	CreatedAt time.Time
	ExpiresAt time.Time
}

// SSHVerdict is what a person said.
type SSHVerdict string

const (
	SSHWaiting  SSHVerdict = "waiting"
	SSHApproved SSHVerdict = "approved"
	SSHRejected SSHVerdict = "rejected"
)

// SSHApprovalMost is how long an approval can be worth something: the largest checkPeriod that a policy may have.
const SSHApprovalMost = 7 * 24 * time.Hour

// OwnerOf names whose node it is, as far as an approval cares: the user, or the tags.
func OwnerOf(n *Node) string {
	if n.IsTagged() {
		return strings.Join(n.Tags, ",")
	}
	return fmt.Sprintf("user %d", n.UserID)
}
