//! Prompts, and settings of the loop: a pack's, and what a modality has in their place.

use serde::{Deserialize, Serialize};

/// Settings of the loop that suit the pack's models.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopSettings {
    /// Most steps.
    pub steps: usize,
    /// Texts that go back to the generator.
    pub keep: usize,
    /// Texts that are asked for in a step.
    pub propose: usize,
    /// How often a step may ask, for what repeats and unusable texts leave short.
    pub asks: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Nucleus sampling.
    pub top_p: f32,
    /// Scores are shown as 0 to this.
    pub label_scale: u32,
    /// Steps without change after which a run ends; 0: never.
    pub patience: usize,
}

impl Default for LoopSettings {
    /// The paper's image captioning; what repeats leave short is asked for once more.
    fn default() -> Self {
        Self { steps: 10, keep: 50, propose: 50, asks: 2, temperature: 0.5, top_p: 0.9, label_scale: 100, patience: 3 }
    }
}

impl LoopSettings {
    /// `section` is where the numbers are from.
    pub(crate) fn check(&self, section: &str) -> Result<(), String> {
        let Self { steps, keep, propose, asks, label_scale, .. } = *self;
        let check = |name: &str, value, least, most| within(&format!("{section}.{name}"), value, least, most);
        check("steps", steps, 0, 10_000)?;
        check("keep", keep, 1, 10_000)?;
        check("propose", propose, 1, 100_000)?;
        check("asks", asks, 1, 100)?;
        check("label_scale", label_scale as usize, 1, 10_000)
    }

    /// These with others in their place.
    pub fn with(&self, changes: &LoopChanges) -> Self {
        let LoopChanges { steps, keep, propose, asks, patience } = *changes;
        Self {
            steps: steps.unwrap_or(self.steps),
            keep: keep.unwrap_or(self.keep),
            propose: propose.unwrap_or(self.propose),
            asks: asks.unwrap_or(self.asks),
            patience: patience.unwrap_or(self.patience),
            ..self.clone()
        }
    }
}

pub(crate) fn within(name: &str, value: usize, least: usize, most: usize) -> Result<(), String> {
    let fits = (least..=most).contains(&value);
    if fits { Ok(()) } else { Err(format!("`{name}` is {value}; expected {least} to {most}")) }
}

/// Settings of a modality that take the place of the pack's. How the generator is sampled is the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopChanges {
    /// See [`LoopSettings::steps`].
    pub steps: Option<usize>,
    /// See [`LoopSettings::keep`].
    pub keep: Option<usize>,
    /// See [`LoopSettings::propose`].
    pub propose: Option<usize>,
    /// See [`LoopSettings::asks`].
    pub asks: Option<usize>,
    /// See [`LoopSettings::patience`].
    pub patience: Option<usize>,
}

/// The prompt templates (Jinja); see `mils_optim::prompt`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// The system message.
    #[serde(default)]
    pub system: String,
    /// The user message.
    pub user: String,
}

impl Prompts {
    /// These with others in their place.
    pub(crate) fn with(&self, changes: &PromptChanges) -> Self {
        let PromptChanges { system, user } = changes;
        Self {
            system: system.as_ref().unwrap_or(&self.system).clone(),
            user: user.as_ref().unwrap_or(&self.user).clone(),
        }
    }
}

/// Prompts of a modality that take the place of the pack's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptChanges {
    /// See [`Prompts::system`].
    pub system: Option<String>,
    /// See [`Prompts::user`].
    pub user: Option<String>,
}

/// A file of prompts that packs share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromptFile {
    pub(crate) prompt: Prompts,
    #[serde(default)]
    pub(crate) image: PromptChanges,
    #[serde(default)]
    pub(crate) video: PromptChanges,
    #[serde(default)]
    pub(crate) sound: PromptChanges,
    #[serde(default)]
    pub(crate) generate: PromptChanges,
    #[serde(default)]
    pub(crate) blend: PromptChanges,
    #[serde(default)]
    pub(crate) edit: PromptChanges,
}

impl PromptChanges {
    /// These, and where they say nothing, others.
    pub(crate) fn or(self, others: Self) -> Self {
        Self { system: self.system.or(others.system), user: self.user.or(others.user) }
    }
}
