#!/bin/sh
# Start pgAdmin with the login, the server and the reader's password of local/.env, whatever they were before.
# Its configuration is in memory (SQLITE_PATH), so it is made anew at each start. The files that people save are on
# the volume.
set -eu
umask 077

# A pgAdmin of before kept its configuration on the volume, without a login.
rm -rf /var/lib/pgadmin/pgadmin4.db /var/lib/pgadmin/sessions

# pgAdmin's own name for the folder of this login; servers.json names the file in it.
name=$(printf %s "$PGADMIN_DEFAULT_EMAIL" | tr @ _)
case $name in [0-9]*) name=pga_user_$name ;; esac
folder=/var/lib/pgadmin/storage/$name
mkdir -p "$folder"
password=$(printf %s "$READER_PGPASSWORD" | sed 's/[\\:]/\\&/g')
printf 'postgres:5432:*:*:%s\n' "$password" > "$folder/.pgpass"
unset READER_PGPASSWORD password

exec /entrypoint.sh "$@"
