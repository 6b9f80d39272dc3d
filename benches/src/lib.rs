//! The place of measurements: ratios to a peer or a limit in one run. There are none yet.
