#!/bin/sh
# As the owner of the tables: create or change them, and give the panel's role what it needs.
set -eu
python manage.py migrate --no-input
python manage.py dbshell -- --no-psqlrc --quiet --set ON_ERROR_STOP=1 < deploy/grants.sql
