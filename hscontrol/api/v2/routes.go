package v2

import "net/http"

// operation is one thing that can be asked for: {tailnet} is a tailnet's name or "-".
type operation struct {
	method, path string
	scope        string // that the caller needs; see access.Caller.May
	do           func(*call) (any, error)
}

// operations is all of it.
func operations() []operation {
	const (
		get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
		core, routes               = "devices:core", "devices:routes"
		read                       = ":read"
		t, d                       = "/tailnet/{tailnet}", "/device/{device}"
	)
	return []operation{
		{get, t + "/devices", core + read, listDevices},
		{get, d, core + read, getDevice},
		{del, d, core, changeDevice(deleteDevice)},
		{post, d + "/authorized", core, changeDevice(authorizeDevice)},
		{post, d + "/name", core, changeDevice(nameDevice)},
		{post, d + "/tags", core, changeDevice(tagDevice)},
		{post, d + "/key", core, changeDevice(keyDevice)},
		{post, d + "/expire", core, changeDevice(expireDevice)},
		{post, d + "/ip", core, changeDevice(addressDevice)},
		{get, d + "/routes", routes + read, getRoutes},
		{post, d + "/routes", routes, setRoutes},
	}
}
