package tailnet

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// User owns nodes and pre-auth keys. Older command lines call it a namespace.
type User struct {
	ID        UserID `gorm:"primaryKey"`
	TailnetID ID     `gorm:"not null;uniqueIndex:user_name,priority:1"`

	Name        string `gorm:"not null;uniqueIndex:user_name,priority:2"` // unique in the tailnet
	DisplayName string
	Email       string

	Provider           string // "oidc", or empty for users made here
	ProviderIdentifier string // issuer and subject; empty for users made here
	ProfilePicURL      string

	// Role is owner, admin, it-admin, network-admin, billing-admin, auditor or member; empty means member.
	Role string
	// Status is UserActive, UserSuspended or UserNeedsApproval.
	Status string

	CreatedAt time.Time
	UpdatedAt time.Time
}

var userName = regexp.MustCompile(`^[\pL\pN][\pL\pN._@+-]*$`)

// ValidateUserName reports why name cannot name a user: it must be 1 to 64 letters, digits and . _ - + @,
// and begin with a letter or digit.
func ValidateUserName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the user name is empty")
	case len(name) > 64:
		return fmt.Errorf("user name %q is longer than 64 bytes", name)
	case !userName.MatchString(name):
		return fmt.Errorf("user name %q: use letters, digits and . _ - + @, beginning with a letter or digit", name)
	}
	return nil
}

// LoginName is what clients show as the account: the mail address if there is one, else the name.
func (u *User) LoginName() string {
	if u.Email != "" {
		return u.Email
	}
	return u.Name
}

// Display is the display name, or the name where there is none.
func (u *User) Display() string {
	if u.DisplayName != "" {
		return u.DisplayName
	}
	return u.Name
}

// Matches reports whether word means this user in a policy: by mail address, by name, or by "name@".
func (u *User) Matches(word string) bool {
	if u.Email != "" && strings.EqualFold(u.Email, word) {
		return true
	}
	return u.Name == word || u.Name+"@" == word
}

// Profile is the user as clients see it.
func (u *User) Profile() tailcfg.UserProfile {
	return tailcfg.UserProfile{
		ID:            tailcfg.UserID(u.ID),
		LoginName:     u.LoginName(),
		DisplayName:   u.Display(),
		ProfilePicURL: u.ProfilePicURL,
	}
}

// TaggedDevices is the user that owns every tagged node in the view of its peers. Its ID lies above any that the
// store hands out and below 2^31, where some clients and user interfaces end.
const TaggedDevices UserID = 2147455555

// TaggedDevicesProfile is the profile of TaggedDevices.
func TaggedDevicesProfile() tailcfg.UserProfile {
	return tailcfg.UserProfile{
		ID:          tailcfg.UserID(TaggedDevices),
		LoginName:   "tagged-devices",
		DisplayName: "Tagged Devices",
	}
}
