//! Which language model writes: of every command that has one.

use crate::session::Endpoint;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Which language model writes.
#[derive(Clone, Debug, Default, Args)]
pub struct GeneratorArgs {
    /// Model pack: a name (see `mils models list`), or a folder with a pack.toml [default: the largest that is installed
    /// and that this machine can run]
    #[arg(long, value_name = "NAME|DIR", env = "MILS_PACK", value_parser = NonEmptyStringValueParser::new())]
    pub pack: Option<String>,

    /// Ask this OpenAI-compatible endpoint in place of the pack's language model: llama-server, vLLM, Ollama, …; a key is
    /// read from MILS_API_KEY or OPENAI_API_KEY
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub generator: Option<String>,

    /// The model's name there [default: the only one that it has]
    #[arg(long, value_name = "NAME", requires = "generator", value_parser = NonEmptyStringValueParser::new())]
    pub generator_model: Option<String>,
}

impl GeneratorArgs {
    /// The endpoint that is named; `None` where that is the pack's language model.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.generator.clone().map(|url| Endpoint { url, model: self.generator_model.clone() })
    }
}
