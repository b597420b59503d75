#!/bin/sh
# clients.sh VERSION... builds unmodified Tailscale clients for the lab.
#
# Each version lands in ${XDG_CACHE_HOME:-$HOME/.cache}/keelscale/clients/VERSION/
# as the two programs tailscale and tailscaled, and for the newest also derper, the
# reference for our relay; one that is there already costs nothing. A build goes to a directory beside it first and is moved when whole, so
# an interrupted build leaves nothing that a scene could mistake for a client.
#
# Releases before v1.62 do not build any more: their go.mod asks for inet.af
# modules that are not to be had.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/keelscale/clients"
mkdir -p "$cache"

[ $# -gt 0 ] || { echo "usage: $0 VERSION..." >&2; exit 2; }

cd / # away from the module: `go install PKG@VERSION` must not read its go.mod
for version in "$@"; do
	home="$cache/$version"
	programs="tailscale tailscaled"
	[ "$version" != v1.102.5 ] || programs="$programs derper"
	missing=
	for program in $programs; do
		[ -x "$home/$program" ] || missing="$missing tailscale.com/cmd/$program@$version"
	done
	if [ -z "$missing" ]; then
		echo "clients: $version is built"
		continue
	fi
	echo "clients: building $version (one to six minutes the first time)"
	begun=$(date +%s)
	new="$cache/.$version.$$"
	rm -rf "$new"
	mkdir "$new"
	trap 'rm -rf "$new"' EXIT INT TERM
	GOBIN="$new" GOFLAGS=-buildvcs=false nice go install -p 2 $missing
	mkdir -p "$home"
	mv "$new"/* "$home"
	rmdir "$new"
	trap - EXIT INT TERM
	echo "clients: built $version in $(($(date +%s) - begun)) s"
done
