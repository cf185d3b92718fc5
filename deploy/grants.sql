-- What the panel's role may do. Run as the owner of the tables, after each `manage.py migrate`.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO taskruns_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO taskruns_app;
-- The audit log grows, and nothing in it changes.
REVOKE UPDATE, DELETE, TRUNCATE ON taskruns_auditevent FROM taskruns_app;
REVOKE UPDATE, TRUNCATE ON taskruns_auditanchor FROM taskruns_app;
