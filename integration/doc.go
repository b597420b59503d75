// Package integration shows the whole system at work: unmodified Tailscale clients, our server and
// our relay, in a small internet made of network namespaces (package lab). Each test is a scene
// that a user could have typed. Scenes need root and TUN, and skip with the reason otherwise.
package integration
