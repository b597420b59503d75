package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed pages
var files embed.FS

//go:embed pages/style.css
var style string

//go:embed pages/script.js
var script string

//go:embed pages/icon.svg
var icon []byte

// pages are the parsed templates, by language and name, and the policy under which browsers show them.
type pages struct {
	templates map[string]*template.Template // "zh/register"
	policy    string
}

// view is what every template sees.
type view struct {
	Lang      string
	Other     string // address of this page in the other language
	ServerURL string
	Host      string
	Style     template.CSS
	Script    template.JS
	Data      any // what the one page is about
}

// parsePages reads the embedded templates. They are part of the program, so an error in one is a bug.
func parsePages() pages {
	layout := template.Must(template.ParseFS(files, "pages/layout.html"))
	out := pages{templates: map[string]*template.Template{}, policy: contentPolicy()}
	for _, lang := range []string{english, chinese} {
		entries, err := files.ReadDir("pages/" + lang)
		if err != nil {
			panic(fmt.Sprintf("console: the pages in %q are not embedded: %v", lang, err))
		}
		for _, e := range entries {
			t := template.Must(template.Must(layout.Clone()).ParseFS(files, path.Join("pages", lang, e.Name())))
			out.templates[lang+"/"+strings.TrimSuffix(e.Name(), ".html")] = t
		}
	}
	return out
}

// contentPolicy allows a page its own style and script, by their hashes, to ask this server, and nothing else.
func contentPolicy() string {
	return strings.Join([]string{
		"default-src 'none'",
		"style-src '" + hashOf(style) + "'",
		"script-src '" + hashOf(script) + "'",
		"img-src 'self'",
		"connect-src 'self'",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
	}, "; ")
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// render writes a page whole, so that an error in it cannot leave half of one.
func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	lang := language(r)
	var b bytes.Buffer
	err := c.pages.templates[lang+"/"+name].ExecuteTemplate(&b, "layout", view{
		Lang:      lang,
		Other:     inOther(r, lang),
		ServerURL: c.cfg.ServerURL,
		Host:      c.host(),
		Style:     template.CSS(style), // our own file, not a visitor's words
		Script:    template.JS(script), // likewise
		Data:      data,
	})
	if err != nil {
		c.cfg.Log.Error("writing a page", "page", name, "err", err)
		http.Error(w, "this page is broken; the server's log says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Language", lang)
	h.Set("Vary", "Accept-Language, Accept")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // a visitor who has left is no error
}
