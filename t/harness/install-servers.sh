#!/bin/sh
# Make redis-server, rabbitmq-server, PostgreSQL, MariaDB, memcached and etcd available to the tests, and the
# Debian packages named as arguments, such as chromium for the pages of Flower (t/interop).
# Installs what is missing with apt where that is possible; says aloud what stays absent
# (tests that need it are skipped, or fail when CI=true). Starts nothing.
set -u
have() {
    case "$1" in
        rabbitmq-server) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1 ;;
        postgresql) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1 ;;
        etcd-server) command -v etcd >/dev/null 2>&1 ;;
        mariadb-server) [ -x /usr/sbin/mariadbd ] || command -v mariadbd >/dev/null 2>&1 ;;
        zookeeper) [ -x /usr/share/zookeeper/bin/zkServer.sh ] ;;
        chromium) command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}
missing=""
for server in redis-server rabbitmq-server postgresql mariadb-server memcached etcd-server "$@"; do
    have "$server" || missing="$missing $server"
done
[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    # The packages must not start services of their own: the tests run private copies.
    policy=/usr/sbin/policy-rc.d
    made_policy=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=yes
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    [ -n "$made_policy" ] && rm -f "$policy"
fi
for server in $missing; do
    have "$server" || echo "NOT FOUND: $server. Tests that need it are skipped; install it to run them."
done
[ "${CI:-}" = true ] || exit 0
for server in $missing; do
    have "$server" || { echo "CI=true: $server is required"; exit 1; }
done
