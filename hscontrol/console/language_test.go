package console_test

import (
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/console"
)

func TestLanguage(t *testing.T) {
	h := console.New(console.Config{ServerURL: serverURL})
	for _, tc := range []struct{ path, header, want string }{
		{"/", "", "en"},
		{"/", "zh", "zh"},
		{"/", "zh-Hans-CN, en;q=0.5", "zh"},
		{"/", "en-GB,en;q=0.9,zh;q=0.8", "en"},
		{"/", "en;q=0.3, zh-TW;q=0.7", "zh"},
		{"/", "de, fr;q=0.9", "en"},
		{"/", "de, zh;q=0.1", "zh"},
		{"/", "zh;q=0", "en"},
		{"/", "zh;q=NaN", "en"},
		{"/", "zh;q=17", "en"},
		{"/", "*", "en"},
		{"/", strings.Repeat("de,", 10_000) + "zh", "en"}, // nobody's browser; not read to the end
		{"/?lang=zh", "en", "zh"},
		{"/?lang=en", "zh", "en"},
		{"/?lang=tlh", "zh", "zh"},
	} {
		if got := get(t, h, tc.path, "Accept-Language", tc.header).Header().Get("Content-Language"); got != tc.want {
			t.Errorf("GET %s with Accept-Language %.40q: got %q, want %q", tc.path, tc.header, got, tc.want)
		}
	}
}

// The link to the other language keeps the key of a registration.
func TestOtherLanguageKeepsKey(t *testing.T) {
	page := get(t, serving(waiting(), nil), "/register?key="+someKey).Body.String()
	if want := `href="?key=` + someKey + `&amp;lang=zh"`; !strings.Contains(page, want) {
		t.Errorf("got no %s in the page", want)
	}
}

func FuzzRequest(f *testing.F) {
	h := serving(waiting(), nil)
	f.Add("zh;q=0.5,en", someID)
	f.Add(";;q=,", "mkey:"+someKey)
	f.Add("zh;q=-1", "<script>")
	f.Fuzz(func(t *testing.T, header, key string) {
		w := get(t, h, "/register?key="+urlEscape(key), "Accept-Language", header)
		if w.Code != 200 && w.Code != 404 {
			t.Errorf("got status %d", w.Code)
		}
		if strings.Contains(w.Body.String(), "<script>alert") {
			t.Error("the page runs what it was given")
		}
	})
}
