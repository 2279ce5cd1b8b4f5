//! A folder of pictures captioned with 1 to 64 of them in flight.

use crate::bench::Bench;
use crate::harness::{Contestant, Extra, Kind};
use anyhow::{Result, anyhow};
use mils_cli::flight::Runway;
use mils_cli::media::Input;
use mils_cli::session::{Options, Session};
use mils_demo_world::{Split, render, worlds};
use mils_media::RgbImage;
use mils_models::{Modality, Pack};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

/// Pictures in the folder: as many as can be in flight.
const FILES: usize = 64;
/// Files in flight.
const IN_FLIGHT: [usize; 4] = [1, 4, 16, 64];
/// Steps of each run, unless everything is wanted in full.
const STEPS: usize = 1;

/// A session with so many runs in flight.
struct Folder {
    name: String,
    kind: Kind,
    session: Session,
    pictures: Rc<Vec<RgbImage>>,
    turns: usize,
    seconds: f64,
    generator: f64,
    scorer: f64,
}

impl Folder {
    fn new(name: String, kind: Kind, session: Session, pictures: Rc<Vec<RgbImage>>) -> Self {
        Self { name, kind, session, pictures, turns: 0, seconds: 0.0, generator: 0.0, scorer: 0.0 }
    }
}

impl Contestant for Folder {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn turn(&mut self) -> Result<f64> {
        self.session.config(Modality::Image)?.seed = self.turns as u64;
        let pictures: &[RgbImage] = &self.pictures;
        let runway = Runway {
            next: &|number| pictures.get(number).map(|picture| Ok(Input::Media(picture.clone().into()))),
            observer: &|_, _, _, _| ControlFlow::Continue(()),
            news: &|_| {},
            keeper: None,
        };
        let mut ended = Ok(0);
        let begin = std::time::Instant::now();
        let busy = self.session.caption_all(&runway, &mut |_, run| {
            match (run, &mut ended) {
                (Ok(_), Ok(count)) => *count += 1,
                (Err(error), ended) => *ended = Err(error),
                (Ok(_), Err(_)) => {}
            }
            if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let seconds = begin.elapsed().as_secs_f64();
        let ended = ended?;
        if ended != pictures.len() {
            return Err(anyhow!("{ended} of {} pictures were captioned", pictures.len()));
        }
        self.turns += 1;
        self.seconds += seconds;
        self.generator += busy.generator;
        self.scorer += busy.scorer;
        Ok(seconds)
    }

    fn figures(&mut self) -> Vec<Extra> {
        let each = |total: f64| total / self.turns.max(1) as f64;
        vec![
            Extra::new("seconds a file", each(self.seconds) / self.pictures.len().max(1) as f64, 2),
            Extra::new("language model busy, %", each(self.generator) * 100.0, 0),
            Extra::new("encoder busy, %", each(self.scorer) * 100.0, 0),
        ]
    }
}

fn open(
    (name, kind): (String, Kind),
    in_flight: usize,
    steps: Option<usize>,
    bench: &Bench,
    pictures: &Rc<Vec<RgbImage>>,
) -> Result<Folder> {
    let options = Options {
        steps,
        files: pictures.len(),
        in_flight: Some(in_flight),
        cancel: Arc::clone(&bench.stop),
        ..Options::default()
    };
    let mut session = Session::open(Pack::find("demo")?, &options, bench.backend(), &mut |_| {})?;
    session.config(Modality::Image)?.patience = None;
    Ok(Folder::new(name, kind, session, Rc::clone(pictures)))
}

/// Runs the table.
///
/// # Errors
/// If a model cannot be loaded.
pub fn run(bench: &mut Bench) -> Result<()> {
    bench.say("loading the models");
    let scenes = worlds::scenes::<worlds::Pictures>(Split::HeldOut, FILES, 2024);
    let pictures = Rc::new(scenes.iter().map(|scene| render::render(scene).image).collect::<Vec<_>>());
    let steps = (!bench.full).then_some(STEPS);
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for in_flight in IN_FLIGHT {
        let name = format!("{in_flight} in flight");
        contestants.push(Box::new(open((name, Kind::Ours), in_flight, steps, bench, &pictures)?));
    }
    let again = ("1 in flight again".into(), Kind::Again);
    contestants.insert(1, Box::new(open(again, 1, steps, bench, &pictures)?));
    let depth = steps.map_or_else(|| "all steps".to_owned(), |n| format!("{n} step each"));
    let title = format!("demo pack: a folder of {FILES} pictures, {depth}");
    bench.measure(("folder", &title), &mut contestants, &["1 in flight"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mils_cli::backend::BackendChoice;

    #[test]
    fn every_picture_of_the_folder_is_captioned() {
        let scenes = worlds::scenes::<worlds::Pictures>(Split::HeldOut, 3, 5);
        let pictures = Rc::new(scenes.iter().map(|scene| render::render(scene).image).collect::<Vec<_>>());
        let options = Options { steps: Some(1), propose: Some(4), files: 3, in_flight: Some(2), ..Options::default() };
        let session = Session::open(Pack::find("demo").unwrap(), &options, BackendChoice::Cpu, &mut |_| {}).unwrap();
        assert_eq!(session.in_flight(), 2);
        let mut folder = Folder::new(String::new(), Kind::Ours, session, pictures);
        assert!(folder.turn().unwrap() > 0.0);
        let busy = folder.figures()[1].value;
        assert!((1.0..=100.0).contains(&busy), "{busy}");
    }
}
