package hscontrol

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
)

// withOrigins lets pages of the origins in cors.allowed_origins use the API. Which they are is looked up anew for each
// request, since a reload may change them.
func (s *Server) withOrigins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !forPrograms(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		origin, allowed := r.Header.Get("Origin"), s.config().CORS.AllowedOrigins
		if origin == "" || !slices.Contains(allowed, origin) && !slices.Contains(allowed, "*") {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, Headscale-Problem")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, If-Match, If-None-Match, Last-Event-ID, X-Requested-With")
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
	})
}

// forPrograms tells the API, and what is asked beside it, from pages. A page that is a client itself (SSH in a browser)
// asks for the key; the rest of what it says goes by WebSocket, to which none of this applies.
func forPrograms(path string) bool {
	return strings.HasPrefix(path, "/api/") || slices.Contains([]string{"/health", "/version", "/key"}, path) || strings.HasPrefix(path, "/swagger/")
}

// withPages shows the files of ui.static_dirs.
func (s *Server) withPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, dir := pagesAt(s.config().UI.StaticDirs, r.URL.Path)
		switch {
		case dir == "":
			next.ServeHTTP(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "there are only files here", http.StatusMethodNotAllowed)
		case r.URL.Path == at: // so that relative links begin below it
			to := url.URL{Path: at + "/", RawQuery: r.URL.RawQuery}
			http.Redirect(w, r, to.String(), http.StatusMovedPermanently)
		default:
			showFile(w, r, dir, strings.TrimPrefix(r.URL.Path, at+"/"))
		}
	})
}

// pagesAt is the directory for a path, of several the one whose path is longest.
func pagesAt(dirs map[string]string, asked string) (at, dir string) {
	for each := range dirs {
		if (asked == each || strings.HasPrefix(asked, each+"/")) && len(each) > len(at) {
			at, dir = each, dirs[each]
		}
	}
	return at, dir
}

// showFile sends a file of dir. Interfaces of one page keep their state in the path: what is no file and does not look
// like one is that page. Nothing is shown whose name begins with a dot, and no list of files.
func showFile(w http.ResponseWriter, r *http.Request, dir, name string) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return strings.HasPrefix(part, ".") }) {
		http.NotFound(w, r)
		return
	}
	const indexOf = 1 // the candidate that is the page of a directory
	candidates := []string{name, path.Join(name, "index.html"), name + ".html"}
	if path.Ext(name) == "" {
		candidates = append(candidates, "index.html")
	}
	files := os.DirFS(dir)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	for i, candidate := range candidates {
		info, err := fs.Stat(files, candidate)
		if err != nil && !errors.Is(err, fs.ErrPermission) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if i == indexOf && !strings.HasSuffix(r.URL.Path, "/") { // so that relative links begin below the directory
			to := url.URL{Path: r.URL.Path + "/", RawQuery: r.URL.RawQuery}
			http.Redirect(w, r, to.String(), http.StatusMovedPermanently)
			return
		}
		if err == nil {
			err = sendFile(w, r, files, candidate, info)
		}
		if err != nil {
			http.Error(w, "the server may not read this file", http.StatusForbidden)
		}
		return
	}
	http.NotFound(w, r)
}

// sendFile sends what is there. http.ServeFileFS would send those who ask for index.html elsewhere.
func sendFile(w http.ResponseWriter, r *http.Request, files fs.FS, name string, info fs.FileInfo) error {
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	content, ok := f.(*os.File)
	if !ok {
		return fs.ErrInvalid
	}
	if path.Ext(name) == ".html" {
		w.Header().Set("Cache-Control", "no-cache") // it names the other files, which have new names when they change
	}
	http.ServeContent(w, r, name, info.ModTime(), content)
	return nil
}
