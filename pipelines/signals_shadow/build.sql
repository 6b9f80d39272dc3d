-- What this tagger has read already; `shared/scored.sql` adds the rest.
SELECT * FROM previous.signals_shadow WHERE tagger_id = $tagger_id
