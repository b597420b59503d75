package policy

// Unset is what holds in a tailnet where nobody has set a policy, as a text that could be set. Setting an empty policy
// over the APIs puts it in force again.
const Unset = `// The policy of a tailnet that nobody has set another for: everyone reaches everyone.
{
	"acls": [
		{"action": "accept", "src": ["*"], "dst": ["*:*"]},
	],
}
`
