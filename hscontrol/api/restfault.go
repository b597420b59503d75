package api

import (
	"encoding/json"
	"net/http"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/api/access"
)

// errTooLong refuses a body that is too long.
var errTooLong = status.Errorf(codes.OutOfRange, "the body is longer than %d MiB", maxRequest>>20)

// statusOf is the HTTP status of each code. A conflict is one for people too; what lacks here is the server's fault.
var statusOf = map[codes.Code]int{
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.Unauthenticated:    http.StatusUnauthorized,
	codes.PermissionDenied:   http.StatusForbidden,
	codes.NotFound:           http.StatusNotFound,
	codes.AlreadyExists:      http.StatusConflict,
	codes.FailedPrecondition: http.StatusConflict,
	codes.Aborted:            http.StatusPreconditionFailed,
	codes.OutOfRange:         http.StatusRequestEntityTooLarge,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.Canceled:           499, // nobody is there to read it
	codes.Unimplemented:      http.StatusNotImplemented,
	codes.Unavailable:        http.StatusServiceUnavailable,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
}

// trouble is what an error answer says. A zero code is unknown.
type trouble struct {
	status int
	code   codes.Code
	text   string
	older  string // text for older clients, if it is another one
}

// refuse answers with an error of the service.
func refuse(w http.ResponseWriter, r *http.Request, err error) { refuseAs(w, r, err, nil) }

// refuseAs is refuse with another sentence for older clients. Nil: the same.
func refuseAs(w http.ResponseWriter, r *http.Request, err error, older func(codes.Code, string) string) {
	s := status.Convert(toStatus(err))
	code, known := statusOf[s.Code()]
	if !known {
		code = http.StatusInternalServerError
	}
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="headscale"`)
	}
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(access.RetryAfter.Seconds())))
	}
	t := trouble{status: code, code: s.Code(), text: s.Message()}
	if older != nil {
		t.older = older(s.Code(), s.Message())
	}
	problem(w, r, t)
}

// problem answers with an error as RFC 9457 has it. Older clients read code (gRPC's), message and details.
func problem(w http.ResponseWriter, r *http.Request, t trouble) {
	if t.code == codes.OK {
		t.code = codes.Unknown
	}
	title := http.StatusText(t.status)
	if title == "" {
		title = t.code.String()
	}
	if t.older == "" {
		t.older = t.text
	}
	w.Header().Set("Content-Type", problemType(r))
	w.WriteHeader(t.status)
	answer := struct {
		Type     string     `json:"type"`
		Title    string     `json:"title"`
		Status   int        `json:"status"`
		Detail   string     `json:"detail"`
		Instance string     `json:"instance"`
		Code     codes.Code `json:"code"`
		Message  string     `json:"message"`
		Details  []string   `json:"details"`
	}{"about:blank", title, t.status, t.text, r.URL.Path, t.code, t.older, []string{}}
	_ = json.NewEncoder(w).Encode(answer) // who hung up reads nothing
}
