package v2

import (
	"net/http"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

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
		mine                       = tailnet.ScopeOwnDevices // a part of core: of members only their own is there
		posture, users             = "devices:posture_attributes", "users"
		t, d, u                    = "/tailnet/{tailnet}", "/device/{device}", "/users/{user}"
		i, w                       = "/user-invites/{invite}", "/webhooks/{webhook}"
	)
	list := []operation{
		{get, t + "/devices", core + read, listDevices},
		{get, d, core + read, getDevice},
		{del, d, mine, changeDevice(deleteDevice)},
		{post, d + "/authorized", core, changeDevice(authorizeDevice)},
		{post, d + "/name", mine, changeDevice(nameDevice)},
		{post, d + "/tags", core, changeDevice(tagDevice)},
		{post, d + "/key", core, changeDevice(keyDevice)},
		{post, d + "/expire", mine, changeDevice(expireDevice)},
		{post, d + "/ip", core, changeDevice(addressDevice)},
		{get, d + "/routes", routes + read, getRoutes},
		{post, d + "/routes", routes, setRoutes},

		{get, d + "/attributes", posture + read, getAttributes},
		{post, d + "/attributes/{attribute}", posture, setAttribute},
		{del, d + "/attributes/{attribute}", posture, deleteAttribute},
		{patch, t + "/device-attributes", posture, patchAttributes},
		{get, d + "/device-invites", "device_invites" + read, listDeviceInvites},
		{post, d + "/device-invites", "device_invites", shareDevice},
		{post, "/device-invites/-/accept", "device_invites", shareDevice},
		{get, "/device-invites/{invite}", "device_invites" + read, noDeviceInvite},
		{del, "/device-invites/{invite}", "device_invites", noDeviceInvite},
		{post, "/device-invites/{invite}/resend", "device_invites", noDeviceInvite},

		{get, t + "/keys", "", listKeys}, // which scope it takes depends on the kind of key
		{post, t + "/keys", "", createKey},
		{get, t + "/keys/{key}", "", getKey},
		{put, t + "/keys/{key}", "", setKey},
		{del, t + "/keys/{key}", "", deleteKey},

		{get, t + "/acl", "policy_file" + read, getPolicy},
		{post, t + "/acl", "policy_file", setPolicy},
		{post, t + "/acl/preview", "policy_file" + read, previewPolicy},
		{post, t + "/acl/validate", "policy_file" + read, validatePolicy},

		{get, t + "/dns/nameservers", "dns" + read, getNameservers},
		{post, t + "/dns/nameservers", "dns", setNameservers},
		{get, t + "/dns/searchpaths", "dns" + read, getSearchPaths},
		{post, t + "/dns/searchpaths", "dns", setSearchPaths},
		{get, t + "/dns/preferences", "dns" + read, getDNSPreferences},
		{post, t + "/dns/preferences", "dns", setDNSPreferences},
		{get, t + "/dns/split-dns", "dns" + read, getSplitDNS},
		{put, t + "/dns/split-dns", "dns", setSplitDNS},
		{patch, t + "/dns/split-dns", "dns", patchSplitDNS},
		{get, t + "/dns/configuration", "dns" + read, getDNS},
		{post, t + "/dns/configuration", "dns", setDNS},

		{get, t + "/users", users + read, listUsers},
		{get, u, users + read, getUser},
		{post, u + "/approve", users, changePerson(approveUser)},
		{post, u + "/suspend", users, changePerson(suspendUser)},
		{post, u + "/restore", users, changePerson(restoreUser)},
		{post, u + "/delete", users, changePerson(deleteUser)},
		{post, u + "/role", users, changePerson(setUserRole)},
		{get, t + "/user-invites", "user_invites" + read, listUserInvites},
		{post, t + "/user-invites", "user_invites", inviteUsers},
		{get, i, "user_invites" + read, getUserInvite},
		{del, i, "user_invites", deleteUserInvite},
		{post, i + "/resend", "user_invites", resendUserInvite},

		{get, t + "/settings", "feature_settings" + read, getSettings},
		{patch, t + "/settings", "feature_settings", patchSettings},
		{get, t + "/contacts", "account_settings" + read, getContacts},
		{patch, t + "/contacts/{contact}", "account_settings", patchContact},
		{post, t + "/contacts/{contact}/resend-verification-email", "account_settings", verifyContact},

		{get, t + "/webhooks", "webhooks" + read, listWebhooks},
		{post, t + "/webhooks", "webhooks", createWebhook},
		{get, w, "webhooks" + read, getWebhook},
		{patch, w, "webhooks", updateWebhook},
		{del, w, "webhooks", deleteWebhook},
		{post, w + "/test", "webhooks", testWebhook},
		{post, w + "/rotate", "webhooks", rotateWebhook},

		{get, t + "/logging/configuration", "logs:configuration" + read, getAuditLog},
		{get, t + "/logging/network", "logs:network" + read, getFlowLogs},
		{get, t + "/logging/{log}/stream", "log_streaming" + read, getStream},
		{get, t + "/logging/{log}/stream/status", "log_streaming" + read, streamStatus},
		{put, t + "/logging/{log}/stream", "log_streaming", setStream},
		{del, t + "/logging/{log}/stream", "log_streaming", deleteStream},
		{post, t + "/aws-external-id", "log_streaming", awsExternalID},
		{post, t + "/aws-external-id/{external}/validate-aws-trust-policy", "log_streaming", awsExternalID},

		{get, "/organizations/-/tailnets", "tailnets" + read, listTailnets},
		{post, "/organizations/-/tailnets", "tailnets", createTailnet},
		{del, t, tailnet.ScopeAll, deleteTailnet},

		{get, t + "/posture/integrations", "feature_settings" + read, listPosture},
		{post, t + "/posture/integrations", "feature_settings", createPosture},
		{get, "/posture/integrations/{integration}", "feature_settings" + read, getPosture},
		{patch, "/posture/integrations/{integration}", "feature_settings", updatePosture},
		{del, "/posture/integrations/{integration}", "feature_settings", deletePosture},
	}
	for _, services := range []string{t + "/vip-services", t + "/services"} { // older and newer name
		list = append(list,
			operation{get, services, "services" + read, listServices},
			operation{get, services + "/{service}", "services" + read, getService},
			operation{put, services + "/{service}", "services", putService},
			operation{del, services + "/{service}", "services", deleteService},
			operation{get, services + "/{service}/devices", "services" + read, serviceDevices},
			operation{get, services + "/{service}/device/{device}/approved", "services" + read, serviceDevices},
			operation{post, services + "/{service}/device/{device}/approved", "services", serviceDevices},
		)
	}
	return list
}
