package tailnet

import "time"

// APIKey opens the API.
type APIKey struct {
	ID          KeyID    `gorm:"primaryKey"`
	TailnetID   ID       `gorm:"serializer:ref;index"` // zero: it opens all tailnets
	UserID      UserID   `gorm:"serializer:ref;index"` // on whose behalf, with no more than their role allows; zero: nobody's
	Prefix      string   `gorm:"not null;uniqueIndex"`
	Hash        []byte   `gorm:"not null"` // see Secret.Hash; of a key that headscale made, until its first use, bcrypt's
	Description string   `gorm:"not null"`
	Scopes      []string `gorm:"serializer:words"` // see ValidateScopes; none: nothing
	Tags        []string `gorm:"serializer:doc"`   // what it makes has these, or tags that these own; none: any

	Expiration *time.Time // nil: never
	LastSeen   *time.Time
	CreatedAt  time.Time

	Short bool `gorm:"-"` // of a key that is to be made: see NewShortAPIKey
}

// The kinds of OAuth clients, by the names of Tailscale's API.
const (
	ClientBySecret    = "client"    // shows a secret
	ClientByFederated = "federated" // shows a token of another issuer
)

// OAuthClient is a program that gets access tokens for itself (RFC 6749, section 4.4).
type OAuthClient struct {
	ID          KeyID    `gorm:"primaryKey"`
	TailnetID   ID       `gorm:"serializer:ref;index"` // zero: it opens all tailnets
	UserID      UserID   `gorm:"serializer:ref;index"` // as with API keys
	Kind        string   `gorm:"not null"`             // ClientBySecret or ClientByFederated
	Prefix      string   `gorm:"not null;uniqueIndex"` // the client ID
	Hash        []byte   // nil: it has no secret
	Description string   `gorm:"not null"`
	Scopes      []string `gorm:"serializer:words"`
	Tags        []string `gorm:"serializer:doc"`

	// Of a federated client: whose tokens are good, and what they must say. In Subject and in the values of Claims a *
	// stands for anything. Audience is, where it is empty, the client ID.
	Issuer   string            `gorm:"not null"`
	Subject  string            `gorm:"not null"`
	Audience string            `gorm:"not null"`
	Claims   map[string]string `gorm:"serializer:doc"`

	LastSeen  *time.Time
	CreatedAt time.Time
	UpdatedAt time.Time
}

// TableName is what the database calls them.
func (OAuthClient) TableName() string { return "oauth_clients" }

// AccessToken opens the API for a short time, on behalf of an OAuth client.
type AccessToken struct {
	ID        KeyID    `gorm:"primaryKey"`
	ClientID  KeyID    `gorm:"not null;index"`
	Prefix    string   `gorm:"not null;uniqueIndex"`
	Hash      []byte   `gorm:"not null"`
	Scopes    []string `gorm:"serializer:words"`
	Tags      []string `gorm:"serializer:doc"`
	ExpiresAt time.Time
	CreatedAt time.Time
}
