//! The default model, compiled into the program.

use crate::error::{Error, Result};
use crate::tagger::{Options, Tagger};

impl Tagger {
    /// Loads the model that is compiled into this program.
    ///
    /// # Errors
    /// As [`Tagger::new`].
    pub fn embedded(options: Options) -> Result<Self> {
        let _ = options;
        Err(Error::model("model.safetensors", "this build carries no default model, name a directory"))
    }
}
