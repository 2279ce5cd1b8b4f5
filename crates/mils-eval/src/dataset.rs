//! Where data sets have their captions and their files, as they are published.

use crate::EvalError;
use crate::read::{self, Entries, Options};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A data set of captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataSet {
    /// COCO captions: Karpathy's splits, or those of the data set itself.
    Coco,
    /// NoCaps.
    NoCaps,
    /// Flickr30k with Karpathy's splits.
    Flickr30k,
    /// MSR-VTT.
    MsrVtt,
    /// MSVD, also called YouTube2Text.
    Msvd,
    /// Clotho 2.1.
    Clotho,
    /// AudioCaps.
    AudioCaps,
}

/// What a data set is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Pictures.
    Images,
    /// Videos.
    Videos,
    /// Sounds.
    Sounds,
}

/// A split of a data set that was found.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The split.
    pub split: String,
    /// The file of captions.
    pub captions: PathBuf,
    /// References of the split's items.
    pub references: Entries,
    /// Folders that the files are in.
    pub folders: Vec<PathBuf>,
}

/// Files and folders of a split, below the root: one of the first, one or more of the second.
struct Layout {
    captions: Vec<String>,
    folders: Vec<String>,
    /// The name of the split in the file of captions, where it has others.
    within: Option<String>,
    /// A file with the ids of the split, one a line.
    list: Option<String>,
}

impl DataSet {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Coco, Self::NoCaps, Self::Flickr30k, Self::MsrVtt, Self::Msvd, Self::Clotho, Self::AudioCaps];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::NoCaps => "nocaps",
            Self::Flickr30k => "flickr30k",
            Self::MsrVtt => "msrvtt",
            Self::Msvd => "msvd",
            Self::Clotho => "clotho",
            Self::AudioCaps => "audiocaps",
        }
    }

    /// What it is of.
    pub fn sort(self) -> Sort {
        match self {
            Self::Coco | Self::NoCaps | Self::Flickr30k => Sort::Images,
            Self::MsrVtt | Self::Msvd => Sort::Videos,
            Self::Clotho | Self::AudioCaps => Sort::Sounds,
        }
    }

    /// The split that papers report.
    pub fn default_split(self) -> &'static str {
        match self {
            Self::NoCaps => "all",
            Self::Clotho => "evaluation",
            _ => "test",
        }
    }

    fn layout(self, split: &str) -> Layout {
        let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let within = Some(split.to_owned()).filter(|s| s != "all");
        let layout = |captions, folders| Layout { captions, folders, within: None, list: None };
        match self {
            // `val2014`, `val2017`: the data set's own, one file each.
            Self::Coco if split.ends_with(|c: char| c.is_ascii_digit()) => {
                layout(vec![format!("annotations/captions_{split}.json")], all(&[split]))
            }
            Self::Coco => Layout { within, ..layout(all(&["dataset_coco.json"]), all(&["val2014", "train2014"])) },
            Self::NoCaps => {
                Layout { within, ..layout(all(&["nocaps_val_4500_captions.json"]), all(&["val", "images"])) }
            }
            Self::Flickr30k => {
                Layout { within, ..layout(all(&["dataset_flickr30k.json"]), all(&["flickr30k-images", "images"])) }
            }
            Self::MsrVtt => {
                let own = if split == "test" { "test_videodatainfo.json" } else { "train_val_videodatainfo.json" };
                let folders = if split == "test" { "TestVideo" } else { "TrainValVideo" };
                let (captions, folders) = (all(&[own, "MSRVTT_data.json"]), all(&[folders, "videos"]));
                Layout { within, ..layout(captions, folders) }
            }
            Self::Msvd => {
                let captions = all(&["video_corpus.csv", "AllVideoDescriptions.txt"]);
                let list = within.map(|split| format!("{split}_list.txt"));
                Layout { list, ..layout(captions, all(&["YouTubeClips"])) }
            }
            Self::Clotho => layout(vec![format!("clotho_captions_{split}.csv")], all(&[split])),
            Self::AudioCaps => {
                let captions = vec![format!("{split}.csv"), format!("dataset/{split}.csv")];
                layout(captions, vec![split.to_owned(), format!("audio/{split}"), "audio".into()])
            }
        }
    }

    /// Finds a split below a folder that has the data set as it is published, and reads its references.
    ///
    /// # Errors
    /// If something is missing, which is named, or the captions cannot be read.
    pub fn open(self, root: &Path, split: Option<&str>) -> Result<Opened, EvalError> {
        let split = split.unwrap_or(self.default_split());
        let layout = self.layout(split);
        let missing = |what: String| {
            EvalError::file(root, format!("{} ({split}) is not whole here: there is no {what}", self.name()))
        };
        let captions = layout.captions.iter().map(|name| root.join(name)).find(|path| path.is_file());
        let captions = captions.ok_or_else(|| missing(layout.captions.join(" or ")))?;
        let folders: Vec<PathBuf> =
            layout.folders.iter().map(|name| root.join(name)).filter(|path| path.is_dir()).collect();
        if folders.is_empty() {
            return Err(missing(format!("folder {}", layout.folders.join(" or "))));
        }
        let mut references = read::references(&captions, &Options { split: layout.within })?;
        if let Some(list) = layout.list {
            let path = root.join(&list);
            if !path.is_file() {
                return Err(missing(format!("{list}, the split's ids, one a line (or take --split all)")));
            }
            let text = read::text(&path)?;
            let ids: HashSet<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
            references.entries.retain(|entry| ids.contains(&*entry.id));
            if references.entries.len() < ids.len() {
                let problem = format!("{} of its ids have no captions", ids.len() - references.entries.len());
                return Err(EvalError::file(&path, problem));
            }
        }
        Ok(Opened { split: split.to_owned(), captions, references, folders })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn says(data: DataSet, root: &Path, split: Option<&str>) -> String {
        data.open(root, split).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_there_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        let error = says(DataSet::Coco, root, None);
        assert!(error.ends_with("coco (test) is not whole here: there is no dataset_coco.json"), "{error}");
        let karpathy = r#"{"images": [{"cocoid": 5, "split": "test", "sentences": [{"raw": "A dog."}]},
            {"cocoid": 6, "split": "val", "sentences": [{"raw": "A cat."}]}]}"#;
        write("dataset_coco.json", karpathy);
        let error = says(DataSet::Coco, root, None);
        assert!(error.ends_with("there is no folder val2014 or train2014"), "{error}");
        fs::create_dir(root.join("val2014")).unwrap();
        let opened = DataSet::Coco.open(root, None).unwrap();
        let ids: Vec<&str> = opened.references.entries.iter().map(|e| &*e.id).collect();
        assert_eq!((ids, &*opened.split), (vec!["5"], "test"));
        assert_eq!(opened.folders, [root.join("val2014")]);
        assert!(says(DataSet::Coco, root, Some("val2017")).contains("annotations/captions_val2017.json"));

        fs::create_dir(root.join("YouTubeClips")).unwrap();
        write("AllVideoDescriptions.txt", "a_1_2 a cat\na_1_2 one cat\nb_3_4 a dog\n");
        assert!(says(DataSet::Msvd, root, None).contains("there is no test_list.txt"));
        assert_eq!(DataSet::Msvd.open(root, Some("all")).unwrap().references.entries.len(), 2);
        write("test_list.txt", "b_3_4\n");
        assert_eq!(DataSet::Msvd.open(root, None).unwrap().references.entries[0].id, "b_3_4");
        write("test_list.txt", "b_3_4\nc_5_6\n");
        assert!(says(DataSet::Msvd, root, None).contains("1 of its ids have no captions"));

        fs::create_dir(root.join("evaluation")).unwrap();
        write("clotho_captions_evaluation.csv", "file_name,caption_1,caption_2\na b.wav,rain,it rains\n");
        assert_eq!(DataSet::Clotho.open(root, None).unwrap().references.entries[0].texts.len(), 2);
        assert!(DataSet::ALL.iter().all(|d| DataSet::ALL.iter().filter(|e| e.name() == d.name()).count() == 1));
    }
}
