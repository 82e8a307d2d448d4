-- Old versions of keys come to an end: an operation may work for hours, in many parts, and says how far it is.

-- What the plan of an operation keeps between its parts, and shows: in its own words.
ALTER TABLE csm_system.operations ADD COLUMN progress jsonb NOT NULL DEFAULT jsonb_build_object();
