package hscontrol

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleTime is how long a watched file must be left alone before it is read: editors write in several steps.
const settleTime = 200 * time.Millisecond

// watch reads the policy file and the file of extra DNS records again when they change, until ctx ends. It watches
// their directories, since editors put a new file in the place of the old one.
func (s *Server) watch(ctx context.Context) error {
	files := s.watched()
	if len(files) == 0 {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("files are not watched; use SIGHUP after changing them", "err", err)
		return nil
	}
	defer w.Close()
	for _, f := range files {
		if err := w.Add(filepath.Dir(f)); err != nil {
			s.log.Warn("a file is not watched; use SIGHUP after changing it", "file", f, "err", err)
		}
	}
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	for {
		select {
		case e := <-w.Events:
			if slices.Contains(files, filepath.Clean(e.Name)) {
				settled.Reset(settleTime)
			}
		case err := <-w.Errors:
			s.log.Warn("watching files", "err", err)
		case <-settled.C:
			if err := s.readFiles(ctx); err != nil {
				s.log.Error("a watched file changed, but cannot be used", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// watched are the files that are read again by themselves.
func (s *Server) watched() []string {
	cfg := s.config()
	var files []string
	if cfg.Policy.Mode == "file" && cfg.Policy.Path != "" {
		files = append(files, filepath.Clean(cfg.Policy.Path))
	}
	if cfg.DNS.ExtraRecordsPath != "" {
		files = append(files, filepath.Clean(cfg.DNS.ExtraRecordsPath))
	}
	return files
}

// readFiles reads the watched files again.
func (s *Server) readFiles(ctx context.Context) error {
	settings, err := settingsOf(s.config())
	if err != nil {
		s.setFault("extra-records", fmt.Sprintf("%v; the records before stay in use", err), false)
		return err
	}
	s.setFault("extra-records", "", false)
	s.state.SetSettings(settings)
	return s.loadPolicyFile(ctx)
}
