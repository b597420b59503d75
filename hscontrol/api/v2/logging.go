package v2

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// logEntry is a row of the audit log as Tailscale's API writes it.
type logEntry struct {
	EventTime    time.Time       `json:"eventTime"`
	Type         string          `json:"type"`
	EventGroupID string          `json:"eventGroupID"`
	Origin       string          `json:"origin"`
	Actor        logParty        `json:"actor"`
	Target       logParty        `json:"target"`
	Action       string          `json:"action"`
	Old          json.RawMessage `json:"old,omitempty"`
	New          json.RawMessage `json:"new,omitempty"`
}

type logParty struct {
	ID        string `json:"id,omitempty"`
	Type      string `json:"type"`
	Name      string `json:"name,omitempty"`
	LoginName string `json:"loginName,omitempty"`
	Property  string `json:"property,omitempty"`
}

// origins are the doors by the words of Tailscale's API. They never change.
var origins = map[string]string{
	tailnet.ViaConsole: "ADMIN_CONSOLE", tailnet.ViaControl: "NODE", tailnet.ViaRelay: "NODE", tailnet.ViaServer: "CONTROL", tailnet.ViaLogin: "IDENTITY_PROVIDER",
}

// auditTime is how far back the log is told where nobody says since when.
const auditTime = 24 * time.Hour

func getAuditLog(c *call) (any, error) {
	q := c.r.URL.Query()
	f := store.AuditFilter{TailnetID: c.tailnet.ID, Until: c.cfg.Now(), Limit: 10_000, Actor: q.Get("actor"), Target: q.Get("target"), Action: q.Get("event")}
	var err error
	if f.Until, err = timeIn(q, "end", f.Until); err != nil {
		return nil, err
	}
	if f.Since, err = timeIn(q, "start", f.Until.Add(-auditTime)); err != nil {
		return nil, err
	}
	if !f.Since.Before(f.Until) {
		return nil, invalid("start has to be before end")
	}
	rows, err := c.cfg.Store.ListAudit(c.ctx, f)
	if err != nil {
		return nil, err
	}
	logs := []logEntry{}
	for i := range rows {
		logs = append(logs, logAnswer(&rows[i]))
	}
	return map[string]any{"version": "1.1", "tailnetId": c.tailnet.Name, "logs": logs}, nil
}

func timeIn(q url.Values, name string, otherwise time.Time) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return otherwise, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, invalid("%s %q is not a time like 2026-01-02T15:04:05Z", name, text)
	}
	return at, nil
}

func logAnswer(e *tailnet.AuditEntry) logEntry {
	action, kind, property := e.TailscaleAction()
	origin := origins[e.Actor.Via]
	if origin == "" {
		origin = "CONFIG_API"
	}
	return logEntry{
		EventTime: e.At.UTC(), Type: "CONFIG", EventGroupID: strconv.FormatUint(e.ID, 10), Origin: origin,
		Actor:  logParty{Type: "USER", LoginName: e.Actor.Who},
		Target: logParty{ID: e.TargetID, Type: kind, Name: e.TargetName, Property: property},
		Action: action, Old: e.Before, New: e.After,
	}
}

func getFlowLogs(*call) (any, error) {
	return nil, unsupported("this server has no network flow logs: clients send them to Tailscale's log service only")
}

// stream is where a log is sent, as Tailscale's API writes it. Members that no destination of this server has are
// accepted where they are empty.
type stream struct {
	LogType             string   `json:"logType,omitempty"`
	DestinationType     string   `json:"destinationType,omitempty"`
	URL                 string   `json:"url,omitempty"`
	User                string   `json:"user,omitempty"`
	Token               string   `json:"token,omitempty"`
	UploadPeriodMinutes int      `json:"uploadPeriodMinutes,omitempty"`
	CompressionFormat   string   `json:"compressionFormat,omitempty"`
	S3Bucket            string   `json:"s3Bucket,omitempty"`
	S3Region            string   `json:"s3Region,omitempty"`
	S3KeyPrefix         string   `json:"s3KeyPrefix,omitempty"`
	S3Authentication    string   `json:"s3AuthenticationType,omitempty"`
	S3AccessKeyID       string   `json:"s3AccessKeyId,omitempty"`
	S3SecretAccessKey   string   `json:"s3SecretAccessKey,omitempty"`
	S3RoleARN           string   `json:"s3RoleArn,omitempty"`
	S3ExternalID        string   `json:"s3ExternalId,omitempty"`
	GCSBucket           string   `json:"gcsBucket,omitempty"`
	GCSKeyPrefix        string   `json:"gcsKeyPrefix,omitempty"`
	GCSScopes           []string `json:"gcsScopes,omitempty"`
	GCSCredentials      string   `json:"gcsCredentials,omitempty"`
}

// formats are in which form each destination takes rows over HTTP. They never change.
var formats = map[string]string{
	"splunk": hooks.FormatSplunk, "elastic": hooks.FormatLines, "cribl": hooks.FormatSplunk, "panther": hooks.FormatLines,
	"datadog": hooks.FormatArray, "axiom": hooks.FormatArray,
}

// auditStream refuses logs that this server does not have.
func auditStream(c *call) error {
	switch kind := c.r.PathValue("log"); kind {
	case "configuration":
		return nil
	case "network":
		return unsupported("this server has no network flow logs: clients send them to Tailscale's log service only")
	default:
		return absent("log " + strconv.Quote(kind))
	}
}

func getStream(c *call) (any, error) {
	if err := auditStream(c); err != nil {
		return nil, err
	}
	s, err := c.cfg.Hooks.GetStream(c.ctx, c.tailnet.ID)
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, absent("log stream")
	}
	if err != nil {
		return nil, err
	}
	return &stream{LogType: "configuration", DestinationType: s.Notes["destinationType"], URL: s.URL, User: s.User,
		UploadPeriodMinutes: noted(s.Notes["uploadPeriodMinutes"]), CompressionFormat: cmp.Or(s.Notes["compressionFormat"], "none")}, nil
}

// streamStatus is when the receiver last got some of the log, and why it gets none now. Requests are not counted.
func streamStatus(c *call) (any, error) {
	if err := auditStream(c); err != nil {
		return nil, err
	}
	s, err := c.cfg.Store.GetAuditStream(c.ctx, hooks.APIStream(c.tailnet.ID))
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, absent("log stream")
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"lastActivity": s.UpdatedAt.UTC(), "lastError": s.Trouble}, nil
}

// noted is a number that was kept as a text; zero for none.
func noted(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func setStream(c *call) (any, error) {
	if err := auditStream(c); err != nil {
		return nil, err
	}
	var req stream
	if err := c.read(&req); err != nil {
		return nil, err
	}
	format, known := formats[req.DestinationType]
	switch {
	case req.DestinationType == "s3" || req.DestinationType == "gcs":
		return nil, unsupported("this server sends logs over HTTP, not to buckets: destinationType can be splunk, elastic, panther, cribl, datadog or axiom")
	case !known:
		return nil, invalid("destinationType %q is not known: splunk, elastic, panther, cribl, datadog or axiom", req.DestinationType)
	case req.LogType != "" && req.LogType != "configuration":
		return nil, invalid("logType %q is not that of the address", req.LogType)
	case req.CompressionFormat != "" && req.CompressionFormat != "none":
		return nil, unsupported("this server sends logs uncompressed: compressionFormat can only be none")
	}
	s := hooks.Stream{Type: hooks.StreamHTTP, URL: req.URL, User: req.User, Token: req.Token, Format: format, Notes: map[string]string{"destinationType": req.DestinationType}}
	if req.CompressionFormat != "" {
		s.Notes["compressionFormat"] = req.CompressionFormat
	}
	if req.UploadPeriodMinutes != 0 {
		s.Notes["uploadPeriodMinutes"] = strconv.Itoa(req.UploadPeriodMinutes)
	}
	return nil, c.cfg.Hooks.SetStream(c.ctx, c.tailnet.ID, s)
}

func deleteStream(c *call) (any, error) {
	if err := auditStream(c); err != nil {
		return nil, err
	}
	err := c.cfg.Hooks.DeleteStream(c.ctx, c.tailnet.ID)
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, absent("log stream")
	}
	return nil, err
}

func awsExternalID(*call) (any, error) {
	return nil, unsupported("an AWS external ID names an account of Tailscale's cloud: this server has none, and sends no logs to S3")
}
