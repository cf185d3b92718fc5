#!/bin/sh
# Write the secrets of compose.yaml as files: `manage.py new_secrets | sh deploy/compose/secrets.sh DIRECTORY`.
# Existing files stay. Run as root, so that each file belongs to the account of the container that reads it.
set -eu
umask 077
directory="${1:?Name a directory}"
panel=10001    # the account in the panel's image, under which Redis runs too
postgres=999   # the account in the image of PostgreSQL

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# write NAME OWNER TEXT
write() {
    [ ! -e "$directory/$1" ] || return 0
    printf '%s\n' "$3" > "$directory/.new"
    chmod 400 "$directory/.new"
    [ "$(id -u)" != 0 ] || chown "$2:$2" "$directory/.new"
    mv "$directory/.new" "$directory/$1"
}

mkdir -p "$directory"
while IFS='=' read -r name value; do
    case "$name" in
        SECRET_KEY) write secret_key $panel "$value" ;;
        ENCRYPTION_KEYS) write encryption_keys $panel "$value" ;;
        AUDIT_SIGNING_KEY) write audit_signing_key $panel "$value" ;;
        *) echo "Not a line of manage.py new_secrets: $name" >&2; exit 1 ;;
    esac
done
for name in secret_key encryption_keys audit_signing_key; do
    [ -s "$directory/$name" ] || { echo "No $name on standard input. Pipe manage.py new_secrets into this." >&2; exit 1; }
done

write postgres_password $postgres "$(random)"
write owner_password $postgres "$(random)"
write app_password $postgres "$(random)"
write owner_database_url $panel "postgres://taskruns_owner:$(cat "$directory/owner_password")@database:5432/taskruns"
write database_url $panel "postgres://taskruns_app:$(cat "$directory/app_password")@database:5432/taskruns"
redis="$(random)"
write redis_conf $panel "requirepass $redis
bind 0.0.0.0
save \"\"
appendonly no"
write queue_url $panel "redis://:$(sed -n 's/^requirepass //p' "$directory/redis_conf")@queue:6379/0"
chmod 711 "$directory"
