#!/bin/sh
# PostgreSQL's image runs this once, in a new cluster: two roles, and a database that belongs to the first.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<SQL
\set owner_password \`cat /run/secrets/owner_password\`
\set app_password \`cat /run/secrets/app_password\`
CREATE ROLE taskruns_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE taskruns_app LOGIN PASSWORD :'app_password';
CREATE DATABASE taskruns OWNER taskruns_owner;
REVOKE ALL ON DATABASE taskruns FROM PUBLIC;
GRANT CONNECT ON DATABASE taskruns TO taskruns_app;
SQL
