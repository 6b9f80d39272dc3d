SELECT 'subjects_with_lowered_weight' AS reason, count(*) AS subjects FROM shared.weights WHERE weight < 1
