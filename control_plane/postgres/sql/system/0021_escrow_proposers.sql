-- All who could have made a proposer's credential: none of them stands behind who confirms. A proposal from before has
-- nobody, and so nobody confirms it; within a day there is none left.

ALTER TABLE csm_system.escrow_proposals ADD COLUMN behind text[] NOT NULL DEFAULT '{}';
