//! The registry of models: what was made, from what, how good it is, and which one is in use.
//!
//! Core types, one line each:
//! - [`Registry`]: models as directories of the lake: add, list, show, fetch; promote and roll back.
//! - [`Entry`]: one model: its kind, files with digests, lineage, figures, and the decision of the gates.
//! - [`Gate`], [`Decision`]: bounds on figures, and how a model fared under them.
//! - [`Event`]: one line of a kind's history: who put which model into use, when, why, under which decision.
//!
//! In the lake:
//!
//! ```text
//! models/<name>/<version>/…              the model as it was handed in: other programs load it from there
//! models/<name>/<version>/entry.json     written last: what has no entry is no model
//! models/history/<kind>/<number>.json    created and never changed; the highest number says what is in use
//! ```
//!
//! Invariants:
//! - A model is what its files are: its version is their digest, so adding it twice adds nothing, and a file that was
//!   changed is found when it is fetched.
//! - There is no pointer beside the history. Creating the next number is the promotion: it happens or it does not, two at
//!   once cannot both, and nothing is in use without a line that says who wanted it.
//! - A model that a gate refused, or that no gate has judged, is not promoted unless somebody insists and says why.
//!
//! Absent on purpose: training and judging (figures come from the files that trainers leave), and drawing.

mod describe;
mod entry;
mod error;
mod figures;
mod gates;
mod history;
mod registry;

pub use describe::{Description, describe};
pub use entry::{Entry, Kind, Lineage, ModelFile};
pub use error::{Error, ErrorKind, Result};
pub use figures::{Figure, Figures};
pub use gates::{Decision, Gate, Outcome, Verdict, judge};
pub use history::{Action, Event};
pub use registry::{Added, Change, Registry};
