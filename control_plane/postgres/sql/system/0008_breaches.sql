-- What of one tenant was about to reach another, and was held back.

CREATE TABLE csm_system.breaches (
  id uuid CONSTRAINT breaches_pkey PRIMARY KEY,
  owner_uid uuid NOT NULL,
  finder_uid uuid NOT NULL,
  channel text NOT NULL
    CONSTRAINT breaches_channel_check CHECK (channel IN ('row', 'response', 'object', 'cache')),
  method text NOT NULL,
  request_id text NOT NULL,
  create_time timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT ON csm_system.breaches TO csm_control;
GRANT INSERT ON csm_system.breaches TO csm_directory;
