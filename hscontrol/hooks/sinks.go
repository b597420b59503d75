package hooks

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// postRows sends rows over HTTP.
func (h *Hooks) postRows(ctx context.Context, s Stream, rows []Row) error {
	var body bytes.Buffer
	out := json.NewEncoder(&body)
	kind := "application/json"
	var err error
	switch s.Format {
	case FormatLines:
		kind = "application/x-ndjson"
		for i := range rows {
			err = errors.Join(err, out.Encode(&rows[i]))
		}
	case FormatSplunk:
		for i := range rows {
			err = errors.Join(err, out.Encode(struct {
				Time   float64 `json:"time"`
				Source string  `json:"source"`
				Event  *Row    `json:"event"`
			}{float64(rows[i].Time.UnixMilli()) / 1000, "headscale", &rows[i]}))
		}
	default:
		err = out.Encode(rows)
	}
	if err != nil {
		return fmt.Errorf("writing rows of the audit log: %w", err)
	}
	header := http.Header{"Content-Type": {kind}}
	switch {
	case s.Token == "":
	case s.Format == FormatSplunk:
		header.Set("Authorization", "Splunk "+s.Token)
	case s.User != "":
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(s.User+":"+s.Token)))
	default:
		header.Set("Authorization", "Bearer "+s.Token)
	}
	client := h.own
	if s.fromAPI() {
		client = h.client
	}
	_, err = post(ctx, client, s.URL, body.Bytes(), header)
	return err
}

// maxLine bounds a row in a file, in bytes: two documents and what is around them.
const maxLine = 1 << 20

// appendRows appends a line for each row to a file, which is opened anew each time: it may have been moved away. A line
// that a crash left half written is taken off, and rows that the file has already are left out.
func appendRows(path string, rows []Row) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	last, err := lastRow(f)
	if err != nil {
		return fmt.Errorf("reading the end of %s: %w", path, err)
	}
	var lines bytes.Buffer
	out := json.NewEncoder(&lines)
	for i := range rows {
		if rows[i].ID > last {
			if err := out.Encode(&rows[i]); err != nil {
				return err
			}
		}
	}
	if _, err := f.Write(lines.Bytes()); err != nil {
		return err
	}
	return f.Sync()
}

// lastRow goes to the end of the last whole line, cuts off what is behind it, and says which row the line has; 0 if
// there is none.
func lastRow(f *os.File) (id uint64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	start := max(0, size-2*maxLine)
	tail := make([]byte, size-start)
	if _, err := f.ReadAt(tail, start); err != nil && err != io.EOF {
		return 0, err
	}
	whole := tail[:bytes.LastIndexByte(tail, '\n')+1]
	if len(whole) < len(tail) {
		if err := f.Truncate(start + int64(len(whole))); err != nil {
			return 0, err
		}
	}
	if _, err := f.Seek(start+int64(len(whole)), io.SeekStart); err != nil {
		return 0, err
	}
	if len(whole) == 0 {
		return 0, nil
	}
	line := whole[bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1:]
	var row Row
	if json.Unmarshal(line, &row) != nil {
		return 0, nil // somebody else writes to it too
	}
	return row.ID, nil
}
