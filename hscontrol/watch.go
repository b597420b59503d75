package hscontrol

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// settleTime is how long a watched file must be left alone before it is read: editors write in several steps.
const settleTime = 200 * time.Millisecond

// watch reads the policy file and the file of extra DNS records again when they change, until ctx ends. It watches
// their directories, since editors put a new file in the place of the old one.
func (s *Server) watch(ctx context.Context) error {
	for len(s.watched()) == 0 {
		select {
		case <-s.rewatch:
		case <-ctx.Done():
			return nil
		}
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("files are not watched; use SIGHUP after changing them", "err", err)
		return nil
	}
	defer w.Close()
	files := s.watched()
	s.watchDirs(w, files)
	settled := time.NewTimer(settleTime) // a file may have changed since it was read
	for {
		select {
		case e := <-w.Events:
			if slices.Contains(files, filepath.Clean(e.Name)) {
				settled.Reset(settleTime)
			}
		case err := <-w.Errors:
			s.log.Warn("watching files", "err", err)
		case <-s.rewatch:
			files = s.watched()
			if s.watchDirs(w, files) {
				settled.Reset(settleTime) // a file may have changed after the reload read it, and before this
			}
		case <-settled.C:
			if err := s.readFiles(ctx); err != nil {
				s.log.Error("a watched file changed, but cannot be used", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// watchDirs has w watch the directories of files and no others, and reports whether there is one that it did not watch
// before.
func (s *Server) watchDirs(w *fsnotify.Watcher, files []string) (more bool) {
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	had := w.WatchList()
	for _, dir := range had {
		if !slices.Contains(dirs, dir) {
			_ = w.Remove(dir) // a directory that is gone is not watched either
		}
	}
	for i, dir := range dirs {
		if slices.Contains(had, dir) {
			continue
		}
		more = true
		if err := w.Add(dir); err != nil {
			s.log.Warn("a file is not watched; use SIGHUP after changing it", "file", files[i], "err", err)
		}
	}
	return more
}

// watched are the files that are read again by themselves.
func (s *Server) watched() []string {
	cfg := s.config()
	var files []string
	if cfg.Policy.Mode == config.PolicyFile && cfg.Policy.Path != "" {
		files = append(files, filepath.Clean(cfg.Policy.Path))
	}
	if cfg.DNS.ExtraRecordsPath != "" {
		files = append(files, filepath.Clean(cfg.DNS.ExtraRecordsPath))
	}
	return files
}

// readFiles reads the watched files again.
func (s *Server) readFiles(ctx context.Context) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	settings, err := settingsOf(s.config())
	if err == nil {
		s.setFault(recordsFault, "", false)
		s.state.SetSettings(settings)
	} else {
		s.setFault(recordsFault, fmt.Sprintf("%v; the records before stay in use", err), false)
	}
	return errors.Join(err, s.loadPolicyFile(ctx))
}

// recordsFault is the name of the fault that the file of extra DNS records cannot be used.
const recordsFault = "extra-records"
