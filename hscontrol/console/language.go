package console

import (
	"net/http"
	"strconv"
	"strings"
)

const (
	english = "en"
	chinese = "zh"
)

// maxLanguageHeader bounds what is read of Accept-Language, in bytes; browsers send some dozens.
const maxLanguageHeader = 512

// language is the one that a visitor reads best: ?lang= as the link on each page sets it, else what the browser asks
// for (RFC 9110, 12.5.4), else English.
func language(r *http.Request) string {
	switch asked := r.URL.Query().Get("lang"); asked {
	case english, chinese:
		return asked
	}
	return preferred(r.Header.Get("Accept-Language"))
}

// preferred reads an Accept-Language header. Of equal weights the first counts; weight 0 means "not this one".
func preferred(header string) string {
	if len(header) > maxLanguageHeader {
		header = header[:maxLanguageHeader]
	}
	best, most := english, 0.0
	for part := range strings.SplitSeq(header, ",") {
		tag, params, _ := strings.Cut(part, ";")
		primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		if primary != english && primary != chinese {
			continue
		}
		if q := weight(params); q > most {
			best, most = primary, q
		}
	}
	return best
}

// weight reads "q=0.8". Without one it is 1; what cannot be read is 0.
func weight(params string) float64 {
	text, ok := strings.CutPrefix(strings.TrimSpace(params), "q=")
	if !ok {
		return 1
	}
	q, err := strconv.ParseFloat(text, 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}

// inOther is the address of the same page in the other language.
func inOther(r *http.Request, lang string) string {
	query := r.URL.Query()
	query.Set("lang", chinese)
	if lang == chinese {
		query.Set("lang", english)
	}
	return "?" + query.Encode()
}
