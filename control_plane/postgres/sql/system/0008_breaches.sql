-- What of one tenant was about to reach another, and was held back. Nobody deletes from here.

CREATE TABLE csm_system.breaches (
  id uuid CONSTRAINT breaches_pkey PRIMARY KEY,
  owner_uid uuid NOT NULL,
  finder_uid uuid,
  channel text NOT NULL
    CONSTRAINT breaches_channel_check CHECK (channel IN ('row', 'response', 'object', 'cache', 'context')),
  method text NOT NULL,
  request_id text NOT NULL,
  count bigint NOT NULL,
  first_time timestamptz NOT NULL,
  last_time timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE (count, last_time) ON csm_system.breaches TO csm_control, csm_directory;
