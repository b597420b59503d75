package console

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
)

// The preference domains of the Tailscale apps, by the word in the address. The apps read ControlURL from theirs.
// "macos" is the only one that older pages knew.
var appleDomains = map[string]string{
	"ios":              "io.tailscale.ipn.ios",
	"macos":            "io.tailscale.ipn.macos",
	"macos-app-store":  "io.tailscale.ipn.macos",
	"macos-standalone": "io.tailscale.ipn.macsys",
}

// appleProfile answers with a configuration profile that points the app at this server.
func (c *Console) appleProfile(w http.ResponseWriter, r *http.Request) {
	platform := r.PathValue("platform")
	domain, ok := appleDomains[platform]
	if !ok {
		c.missing(w, r)
		return
	}
	attach(w, "application/x-apple-aspen-config", "headscale-"+platform+".mobileconfig")
	_, _ = w.Write([]byte(profile(c.cfg.ServerURL, c.host(), domain)))
}

// profile is the property list. Identifiers depend on the server and the app only, so a second download replaces the
// first one on the machine, and the profiles of two servers do not.
func profile(serverURL, host, domain string) string {
	outer, inner := uuid("profile", serverURL, domain), uuid("payload", serverURL, domain)
	payload := dict(
		"PayloadType", domain,
		"PayloadIdentifier", domain+"."+inner,
		"PayloadUUID", inner,
		"PayloadDisplayName", "Tailscale server",
		"ControlURL", serverURL,
	)
	body := dict(
		"PayloadType", "Configuration",
		"PayloadIdentifier", "keelscale."+outer,
		"PayloadUUID", outer,
		"PayloadDisplayName", "Tailscale at "+host,
		"PayloadDescription", "Makes the Tailscale app use the server at "+serverURL+".",
		"PayloadOrganization", host,
	)
	return xml.Header +
		`<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">` + "\n" +
		"<plist version=\"1.0\">\n<dict>\n" + body +
		"<key>PayloadVersion</key><integer>1</integer>\n" +
		"<key>PayloadRemovalDisallowed</key><false/>\n" +
		"<key>PayloadContent</key>\n<array><dict>\n" + payload +
		"<key>PayloadVersion</key><integer>1</integer>\n" +
		"<key>PayloadEnabled</key><true/>\n" +
		"</dict></array>\n</dict>\n</plist>\n"
}

// dict writes the entries of a dictionary of strings: key, value, key, value.
func dict(entries ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(entries); i += 2 {
		fmt.Fprintf(&b, "<key>%s</key><string>%s</string>\n", escape(entries[i]), escape(entries[i+1]))
	}
	return b.String()
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a strings.Builder takes everything
	return b.String()
}

// uuid is a UUID of version 8 (RFC 9562): the first bits of a hash, the rest as the format wants it.
func uuid(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	h := strings.ToUpper(hex.EncodeToString(sum[:16]))
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// windowsRegistry answers with the values that make Tailscale for Windows use this server, and stay connected when
// nobody is logged in.
func (c *Console) windowsRegistry(w http.ResponseWriter, _ *http.Request) {
	attach(w, "text/x-ms-regedit", "tailscale.reg")
	_, _ = w.Write([]byte(strings.Join([]string{
		"Windows Registry Editor Version 5.00",
		"",
		`[HKEY_LOCAL_MACHINE\SOFTWARE\Tailscale IPN]`,
		`"UnattendedMode"="always"`,
		`"LoginURL"="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(c.cfg.ServerURL) + `"`,
		"",
	}, "\r\n")))
}

func attach(w http.ResponseWriter, kind, name string) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Cache-Control", "no-store")
}
