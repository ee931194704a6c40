#!/bin/sh
# The command line as the daemon's user, with the daemon's settings: install it as /usr/local/bin/asm-daemon.
# The audit names the operator who logged in, not this user. No value in the settings may hold a space.
set -f
exec runuser -u asm -- env $(grep '^ASM_' /etc/asm-daemon/asm-daemon.env) /opt/asm-daemon/bin/asm-daemon "$@"
