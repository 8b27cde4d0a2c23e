# Shared by the scripts in dev/: sourced by bash, never run.

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# Prints the path of pg_bsd_indent; nothing if there is none.
find_pg_bsd_indent()
{
	command -v pg_bsd_indent || ls /usr/lib/postgresql/*/bin/pg_bsd_indent 2>/dev/null | sort -V | tail -n 1
}

# Prints the pg_config to build with: $PG_CONFIG, else the newest packaged
# PostgreSQL (15 or later) that has a server and its development files, else
# the one in PATH.  Prints nothing if there is none.
find_pg_config()
{
	local dir

	if [ -n "${PG_CONFIG:-}" ]; then
		command -v "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG: no such program"
		return
	fi
	for dir in $(ls -d /usr/lib/postgresql/*/ 2>/dev/null | sort -rV); do
		if [ "$(basename "$dir")" -ge 15 ] 2>/dev/null &&
			[ -x "$dir/bin/postgres" ] && [ -f "$dir/lib/pgxs/src/makefiles/pgxs.mk" ]; then
			printf '%s\n' "${dir}bin/pg_config"
			return
		fi
	done
	# Debian's /usr/bin/pg_config exists without any server.
	if dir=$(pg_config --bindir 2>/dev/null) && [ -x "$dir/postgres" ] &&
		[ -f "$(pg_config --pgxs)" ]; then
		command -v pg_config
	fi
}
