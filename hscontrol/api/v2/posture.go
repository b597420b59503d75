package v2

import "strconv"

const noPosture = "this server asks no device management service: set attributes of devices with a program of your own (POST device/ID/attributes/custom:NAME)"

// listPosture says the truth: there are none.
func listPosture(*call) (any, error) {
	return map[string]any{"integrations": []string{}}, nil
}

func createPosture(*call) (any, error) { return nil, unsupported("%s", noPosture) }

func onePosture(c *call) (any, error) {
	return nil, absent("posture integration " + strconv.Quote(c.r.PathValue("integration")))
}
