package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	// TokenLife is how long an access token is good.
	TokenLife = time.Hour
	// maxTokens is how many a client may have at a time. They are asked for once in an hour.
	maxTokens = 5000
	// maxClaims is how many claims a federated client may ask for.
	maxClaims = 50
)

// CreateOAuthClient makes a client as c says. One of ClientBySecret gets a secret, which is told only now. Its tailnet
// is as that of an API key.
func (s *Store) CreateOAuthClient(ctx context.Context, c tailnet.OAuthClient) (*tailnet.OAuthClient, tailnet.Secret, error) {
	row, secret, err := s.createOAuthClient(ctx, c)
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating OAuth client: %w", err)
	}
	return row, secret, nil
}

func (s *Store) createOAuthClient(ctx context.Context, c tailnet.OAuthClient) (*tailnet.OAuthClient, tailnet.Secret, error) {
	if err := checkClient(&c); err != nil {
		return nil, tailnet.Secret{}, err
	}
	secret, err := tailnet.NewSecret(tailnet.ClientSecret, s.cfg.Rand)
	if err != nil {
		return nil, tailnet.Secret{}, err
	}
	c.Prefix, c.Hash = secret.Prefix, secret.Hash()
	if c.Kind == tailnet.ClientByFederated {
		secret, c.Hash = tailnet.Secret{}, nil
	}
	var row *tailnet.OAuthClient
	err = s.write(ctx, func(t *tx) error {
		fresh := c
		row = &fresh
		row.ID, row.LastSeen, row.CreatedAt, row.UpdatedAt = 0, nil, t.now, t.now
		if err := t.placeGrant(&row.TailnetID, row.UserID); err != nil {
			return err
		}
		if err := t.edit().Create(row).Error; err != nil {
			return err
		}
		return t.auditClient("oauthclient.create", nil, row)
	})
	return row, secret, err
}

// checkClient sorts scopes and tags, and says what is wrong with a client.
func checkClient(c *tailnet.OAuthClient) (err error) {
	if c.Scopes, c.Tags, err = checkGrant(c.Scopes, c.Tags, c.Description); err != nil {
		return err
	}
	if len(c.Tags) == 0 && (tailnet.ScopesCover(c.Scopes, "auth_keys") || tailnet.ScopesCover(c.Scopes, "devices:core")) && !tailnet.ScopesCover(c.Scopes, tailnet.ScopeAll) {
		return fmt.Errorf("%w: a client with the scope auth_keys or devices:core needs tags, for what it makes belongs to nobody", tailnet.ErrInvalid)
	}
	switch c.Kind {
	case tailnet.ClientBySecret:
		c.Issuer, c.Subject, c.Audience, c.Claims = "", "", "", nil
		return nil
	case tailnet.ClientByFederated:
		return checkFederated(c)
	}
	return fmt.Errorf("%w: there is no kind %q of OAuth clients", tailnet.ErrInvalid, c.Kind)
}

func checkFederated(c *tailnet.OAuthClient) error {
	if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%w: the issuer %q is not an https URL", tailnet.ErrInvalid, c.Issuer)
	}
	if c.Subject == "" {
		return fmt.Errorf("%w: say which subject the issuer's tokens must have", tailnet.ErrInvalid)
	}
	if len(c.Claims) > maxClaims {
		return fmt.Errorf("%w claims: %d, at most %d", tailnet.ErrTooMany, len(c.Claims), maxClaims)
	}
	texts := []string{c.Issuer, c.Subject, c.Audience}
	for name, value := range c.Claims {
		if name == "" || value == "" {
			return fmt.Errorf("%w: a claim needs a name and a value", tailnet.ErrInvalid)
		}
		texts = append(texts, name, value)
	}
	for _, text := range texts {
		if err := checkText(text, longText); err != nil {
			return err
		}
	}
	return nil
}

// ChangeOAuthClient writes description, scopes and tags of the client c.ID and, if it is federated, whose tokens are
// good. Its access tokens keep theirs, less what the client may no more.
func (s *Store) ChangeOAuthClient(ctx context.Context, c tailnet.OAuthClient) (*tailnet.OAuthClient, error) {
	var row *tailnet.OAuthClient
	err := s.write(ctx, func(t *tx) (err error) {
		if row, err = findClient(t.look(), "id = ?", int64(c.ID)); err != nil {
			return err
		}
		before := *row
		row.Description, row.Scopes, row.Tags = c.Description, c.Scopes, c.Tags
		row.Issuer, row.Subject, row.Audience, row.Claims = c.Issuer, c.Subject, c.Audience, c.Claims
		if err := checkClient(row); err != nil {
			return err
		}
		row.UpdatedAt = t.now
		if err := t.edit().Save(row).Error; err != nil {
			return err
		}
		return t.auditClient("oauthclient.update", &before, row)
	})
	if err != nil {
		return nil, fmt.Errorf("changing OAuth client %d: %w", c.ID, err)
	}
	return row, nil
}

// ListOAuthClients returns all clients, oldest first.
func (s *Store) ListOAuthClients(ctx context.Context) ([]*tailnet.OAuthClient, error) {
	var clients []*tailnet.OAuthClient
	if err := s.orm.WithContext(ctx).Order("id").Find(&clients).Error; err != nil {
		return nil, fmt.Errorf("listing OAuth clients: %w", s.engine.explain(err))
	}
	return clients, nil
}

// FindOAuthClient finds a client by its ID or, for zero, by its client ID or secret.
func (s *Store) FindOAuthClient(ctx context.Context, id tailnet.KeyID, clientID string) (*tailnet.OAuthClient, error) {
	db := s.orm.WithContext(ctx)
	c, err := findClient(db, "id = ?", int64(id))
	if id == 0 {
		c, err = findClient(db, "prefix = ?", tailnet.SecretPrefix(tailnet.ClientSecret, clientID))
	}
	if err != nil {
		return nil, fmt.Errorf("finding OAuth client: %w", s.engine.explain(err))
	}
	return c, nil
}

func findClient(db *gorm.DB, where string, is any) (*tailnet.OAuthClient, error) {
	var c tailnet.OAuthClient
	err := db.Take(&c, where, is).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("%w: see headscale oauth-clients list", tailnet.ErrNotFound)
	}
	return &c, err
}

// DeleteOAuthClient deletes a client and its access tokens.
func (s *Store) DeleteOAuthClient(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error {
		c, err := findClient(t.look(), "id = ?", int64(id))
		if err != nil {
			return err
		}
		if err := t.deleteKey("oauth_clients", id); err != nil {
			return err
		}
		return t.auditClient("oauthclient.delete", c, nil)
	})
	if err != nil {
		return fmt.Errorf("deleting OAuth client %d: %w", id, err)
	}
	return nil
}

// auditClient is auditNode for OAuth clients.
func (t *tx) auditClient(action string, was, became *tailnet.OAuthClient) error {
	r, c := changed(action, kindClient, was, became, factsOfClient)
	r.tailnet, r.id, r.name = c.TailnetID, uint64(c.ID), c.Prefix
	return t.audit(r)
}

func factsOfClient(c *tailnet.OAuthClient) grantFacts {
	return grantFacts{
		Description: c.Description, UserID: c.UserID, Scopes: c.Scopes, Tags: c.Tags,
		Kind: c.Kind, Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, Claims: c.Claims,
	}
}

// VerifyOAuthClient finds the client of a client ID and its secret. ErrAPIKeyRefused if there is none.
func (s *Store) VerifyOAuthClient(ctx context.Context, clientID, text string) (*tailnet.OAuthClient, error) {
	secret, err := tailnet.ParseSecret(tailnet.ClientSecret, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tailnet.ErrAPIKeyRefused, err)
	}
	c, err := s.FindOAuthClient(ctx, 0, secret.Prefix)
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
		return nil, err
	}
	if err != nil || clientID != c.Prefix || !secret.Matches(c.Hash) {
		return nil, fmt.Errorf("%w: this OAuth client is not known", tailnet.ErrAPIKeyRefused)
	}
	return c, nil
}

// CreateAccessToken makes a token for a client, with scopes and tags of the client's or fewer, and its secret, which is
// told only now.
func (s *Store) CreateAccessToken(ctx context.Context, client tailnet.KeyID, scopes, tags []string) (*tailnet.AccessToken, tailnet.Secret, error) {
	secret, err := tailnet.NewSecret(tailnet.TokenSecret, s.cfg.Rand)
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating access token: %w", err)
	}
	var row *tailnet.AccessToken
	err = s.write(ctx, func(t *tx) error {
		var count int
		if err := t.queryRow("SELECT COUNT(*) FROM access_tokens WHERE client_id = ? AND expires_at > ?", int64(client), t.now).Scan(&count); err != nil {
			return err
		}
		if count >= maxTokens {
			return fmt.Errorf("%w: the client has %d access tokens, each good for an hour: use one until it expires", tailnet.ErrTooMany, count)
		}
		n, err := t.exec("UPDATE oauth_clients SET last_seen = ? WHERE id = ?", t.now, int64(client))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: the OAuth client", tailnet.ErrNotFound)
		}
		row = &tailnet.AccessToken{
			ClientID: client, Prefix: secret.Prefix, Hash: secret.Hash(), Scopes: scopes, Tags: tags,
			ExpiresAt: t.now.Add(TokenLife), CreatedAt: t.now,
		}
		return t.edit().Create(row).Error
	})
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating access token: %w", err)
	}
	return row, secret, nil
}

// VerifyAccessToken finds the token of a secret, and its client. ErrAPIKeyRefused if there is none or it has expired.
func (s *Store) VerifyAccessToken(ctx context.Context, text string) (*tailnet.AccessToken, *tailnet.OAuthClient, error) {
	secret, err := tailnet.ParseSecret(tailnet.TokenSecret, text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", tailnet.ErrAPIKeyRefused, err)
	}
	var k tailnet.AccessToken
	err = s.orm.WithContext(ctx).Take(&k, "prefix = ?", secret.Prefix).Error
	if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, nil, fmt.Errorf("finding access token: %w", s.engine.explain(err))
	}
	if err != nil || !secret.Matches(k.Hash) {
		return nil, nil, fmt.Errorf("%w: the access token is not known", tailnet.ErrAPIKeyRefused)
	}
	if !k.ExpiresAt.After(s.now()) {
		return nil, nil, fmt.Errorf("%w: the access token expired at %s: ask for another", tailnet.ErrAPIKeyRefused, k.ExpiresAt.UTC().Format(time.RFC3339))
	}
	c, err := s.FindOAuthClient(ctx, k.ClientID, "")
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, nil, fmt.Errorf("%w: the client of the access token was deleted", tailnet.ErrAPIKeyRefused)
	}
	return &k, c, err
}
