package store

// ledger are the audit log, those who are sent it, and webhooks. Rows of the log outlive what they tell of, so they
// refer to nothing. Only audit_head has to be locked to append; it says which row is the last.
var ledger = []string{
	`CREATE TABLE audit (
		id {int} PRIMARY KEY, at {time} NOT NULL, tailnet_id {int},
		via text NOT NULL, who text NOT NULL, came_from text NOT NULL,
		action text NOT NULL, kind text NOT NULL, target_id text NOT NULL, target_name text NOT NULL,
		was text, became text, hash {bytes} NOT NULL)`,
	`CREATE INDEX audit_at ON audit (at)`,
	`CREATE TABLE audit_head (id {int} PRIMARY KEY, last {int} NOT NULL, hash {bytes} NOT NULL)`,

	// Each stream with the last row that its receiver has, and the server that sends to it now.
	`CREATE TABLE audit_streams (
		name text PRIMARY KEY, tailnet_id {int} REFERENCES tailnets (id) ON DELETE CASCADE,
		settings text NOT NULL, sealed {bytes}, sent {int} NOT NULL,
		holder text NOT NULL, held_until {time}, trouble text NOT NULL, updated_at {time} NOT NULL)`,
	`CREATE INDEX audit_stream_tailnet ON audit_streams (tailnet_id)`,

	// What secret an endpoint has follows from its salt and a key that is not in the database.
	`CREATE TABLE webhooks (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id) ON DELETE CASCADE,
		url text NOT NULL, provider text NOT NULL, events text NOT NULL, creator text NOT NULL, salt {bytes} NOT NULL,
		created_at {time} NOT NULL, updated_at {time} NOT NULL)`,
	`CREATE INDEX webhook_tailnet ON webhooks (tailnet_id)`,
	`CREATE TABLE webhook_deliveries (
		id {id}, webhook_id {int} NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
		subject text NOT NULL, event text NOT NULL, state text NOT NULL, attempts {int} NOT NULL, status {int} NOT NULL, trouble text NOT NULL,
		due_at {time} NOT NULL, holder text NOT NULL, created_at {time} NOT NULL, ended_at {time})`,
	`CREATE INDEX webhook_delivery_due ON webhook_deliveries (due_at) WHERE state = 'waiting'`,
	`CREATE INDEX webhook_delivery_of ON webhook_deliveries (webhook_id, id)`,

	// Which expiry of a node its webhooks were told of.
	`CREATE TABLE webhook_marks (
		node_id {int} NOT NULL REFERENCES nodes (id) ON DELETE CASCADE, event text NOT NULL, expiry {time} NOT NULL,
		PRIMARY KEY (node_id, event)) {norowid}`,
}
