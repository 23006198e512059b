#!/bin/sh
# Writes .env (or the file named as the argument) from .env.example, with fresh secrets. Never overwrites one.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-$here/.env}

if [ -e "$target" ]; then
    echo "$target exists and holds the secrets in use; move it away first if they may be lost." >&2
    exit 1
fi

random_hex() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }
fernet_key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }

owner=$(id -u)
[ "$owner" -ne 0 ] || owner=50000 # Airflow does not run as root

umask 077 # it is for its owner only
while IFS= read -r line; do
    case $line in
        AIRFLOW_FERNET_KEY=change-me) echo "AIRFLOW_FERNET_KEY=$(fernet_key)" ;;
        *_PASSWORD=change-me) echo "${line%%=*}=$(random_hex 12)" ;;
        *=change-me) echo "${line%%=*}=$(random_hex 32)" ;;
        AIRFLOW_UID=*) echo "AIRFLOW_UID=$owner" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <"$here/.env.example" >"$target.new"
mv "$target.new" "$target"
echo "$target is written; ADMIN_USER and ADMIN_PASSWORD in it are the login."
