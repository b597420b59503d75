package store

// grants have API keys say what they open, and for whom, and add OAuth clients and the access tokens that these get.
// Scopes are words with blanks between them: with none a key opens nothing, so that one whose scopes are lost is of no
// use. Older keys open everything.
var grants = []string{
	`ALTER TABLE api_keys ADD COLUMN user_id {int}`,
	`ALTER TABLE api_keys ADD COLUMN description text NOT NULL DEFAULT ''`,
	`ALTER TABLE api_keys ADD COLUMN scopes text NOT NULL DEFAULT 'all'`,
	`ALTER TABLE api_keys ADD COLUMN tags text`,
	`CREATE INDEX api_key_user ON api_keys (user_id)`,

	// Those that are known by a secret, and those that show a token of another issuer instead (kind "federated").
	`CREATE TABLE oauth_clients (
		id {id}, tailnet_id {int} REFERENCES tailnets (id), user_id {int} REFERENCES users (id),
		kind text NOT NULL, prefix text NOT NULL, hash {bytes}, description text NOT NULL, scopes text NOT NULL, tags text,
		issuer text NOT NULL, subject text NOT NULL, audience text NOT NULL, claims text,
		last_seen {time}, created_at {time} NOT NULL, updated_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX oauth_client_prefix ON oauth_clients (prefix)`,
	`CREATE INDEX oauth_client_tailnet ON oauth_clients (tailnet_id)`,
	`CREATE INDEX oauth_client_user ON oauth_clients (user_id)`,

	`CREATE TABLE access_tokens (
		id {id}, client_id {int} NOT NULL REFERENCES oauth_clients (id) ON DELETE CASCADE,
		prefix text NOT NULL, hash {bytes} NOT NULL, scopes text NOT NULL, tags text,
		expires_at {time} NOT NULL, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX access_token_prefix ON access_tokens (prefix)`,
	`CREATE INDEX access_token_client ON access_tokens (client_id)`,
	`CREATE INDEX access_token_expiry ON access_tokens (expires_at)`,
}
