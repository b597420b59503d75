// Package integration shows the whole system at work: unmodified Tailscale clients, our server and
// our relay, in a small internet made of network namespaces (package lab). Each test is a scene
// that a user could have typed. Scenes need root and TUN, and skip with the reason otherwise; the
// clients are built by clients.sh.
//
// The environment may say more:
//
//	KEELSCALE_CLIENTS  the client versions of TestClients, with blanks between
//	KEELSCALE_BIN      a directory with headscale and derper, to spare building them
//	LAB_PATIENCE       seconds to wait for what ought to come at once (120)
//	LAB_LOGS           a directory to keep the logs of all programs in
package integration
