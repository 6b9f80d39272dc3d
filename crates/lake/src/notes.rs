//! Small files below the root that are no tables: what a program leaves for its next run.

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::error::{Error, Result};
use crate::lake::Lake;

impl Lake {
    /// Whether nothing lies below the root.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_empty(&self) -> Result<bool> {
        let found = self.store().list_with_delimiter(None).await;
        let found = found.map_err(|error| Error::sort("list the lake", error))?;
        Ok(found.objects.is_empty() && found.common_prefixes.is_empty())
    }

    /// The text of a small file below the root; none where there is no such file.
    ///
    /// # Errors
    /// What the store says; [`Error::Corrupt`] when it is no text.
    pub async fn note(&self, name: &str) -> Result<Option<String>> {
        let context = || format!("read `{name}` in the lake");
        let found = match self.store().get(&Path::from(name)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Error::sort(context(), error)),
        };
        let bytes = found.bytes().await.map_err(|error| Error::sort(context(), error))?;
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some).map_err(|error| Error::Corrupt { context: context(), source: Box::new(error) })
    }

    /// Writes a small file below the root, over one that is there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn leave_note(&self, name: &str, text: &str) -> Result<()> {
        let payload = PutPayload::from(text.as_bytes().to_vec());
        let written = self.store().put(&Path::from(name), payload).await;
        written.map(|_| ()).map_err(|error| Error::sort(format!("write `{name}` in the lake"), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_note_is_read_back() {
        let lake = Lake::in_memory().unwrap();
        assert!(lake.is_empty().await.unwrap());
        assert_eq!(lake.note("demo.json").await.unwrap(), None);
        lake.leave_note("demo.json", "{}").await.unwrap();
        lake.leave_note("demo.json", "{\"seed\":1}").await.unwrap();
        assert_eq!(lake.note("demo.json").await.unwrap().as_deref(), Some("{\"seed\":1}"));
        assert!(!lake.is_empty().await.unwrap());
    }
}
