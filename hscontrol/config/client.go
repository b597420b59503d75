package config

import "os"

// Client is how the command line finds its server.
type Client struct {
	// UnixSocket is used when CLI.Address is empty.
	UnixSocket string
	CLI        CLI
}

// LoadClient reads what a command needs to reach its server and lets everything else in the file be, right or wrong:
// a broken file must not keep anybody from asking a running server. An empty path reads no file.
//
// Without a file and without a socket of the user's own, the socket is that of a server which belongs to the machine.
func LoadClient(path string, env []string) (Client, error) {
	r := &report{}
	d, err := loader{path: path, env: env, root: os.Geteuid() == 0}.read(r)
	if err != nil {
		return Client{}, err
	}
	needed := &report{}
	for _, p := range r.problems {
		for _, k := range []string{"unix_socket", "cli.address", "cli.api_key", "cli.timeout", "cli.insecure"} {
			if d.bad[k] && d.set[k].sameLine(p.Pos) {
				needed.problems = append(needed.problems, p)
			}
		}
	}
	if err := needed.err(); err != nil {
		return Client{}, err
	}
	client := Client{UnixSocket: d.cfg.UnixSocket, CLI: d.cfg.CLI}
	if path == "" && !isSet(d.set, "unix_socket") && !exists(client.UnixSocket) && exists(systemSocket) {
		client.UnixSocket = systemSocket
	}
	return client, nil
}

// sameLine tells whether a key and its value's problem belong together.
func (p Position) sameLine(q Position) bool {
	return p.Env == q.Env && p.Line == q.Line
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
