//! stable-diffusion.cpp behind the trait of renderers: a model that is loaded once, and pictures of it.

use crate::args::{Args, Edits};
use anyhow::{Context, Result, bail};
use diffusion_rs_sys as sd;
use mils_render::{Abilities, Job, RenderError, Renderer, RgbImage};
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which stable-diffusion.cpp it is: what that says of itself is the commit of whatever repository it is compiled in.
const BINDING: &str = "0.1.20";
/// What stable-diffusion.cpp complained of last: why a function gave nothing.
static LAST: Mutex<String> = Mutex::new(String::new());
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// A model in memory.
pub(crate) struct Engine {
    model: Mutex<Model>,
    name: String,
    args: Args,
    sampler: Option<sd::sample_method_t>,
    scheduler: Option<sd::scheduler_t>,
}

/// A context of stable-diffusion.cpp, freed with this.
struct Model(NonNull<sd::sd_ctx_t>);

// SAFETY: a context is plain memory that no thread is tied to; it is used by one at a time, behind a mutex.
unsafe impl Send for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it was made by `new_sd_ctx`, is freed here alone, and nobody has it any more.
        unsafe { sd::free_sd_ctx(self.0.as_ptr()) }
    }
}

impl Engine {
    /// Loads the model that the arguments name.
    ///
    /// # Errors
    /// If a file is not there, stable-diffusion.cpp cannot load them, or a sampler, schedule or type is unknown.
    pub(crate) fn open(args: &Args) -> Result<Self> {
        VERBOSE.store(args.verbose, Ordering::Relaxed);
        // SAFETY: both callbacks are functions that live as long as the program, and use no data.
        unsafe {
            sd::sd_set_log_callback(Some(log), null_mut());
            sd::sd_set_progress_callback(Some(progress), null_mut());
        }
        let name = name(args)?;
        let files = args.files().map(|(name, path)| Ok((name, path_for_c(path)?))).collect::<Result<Vec<_>>>()?;
        let path = |wanted: &str| {
            files.iter().find(|(name, _)| *name == wanted).map_or(std::ptr::null(), |(_, path)| path.as_ptr())
        };
        let mut params = MaybeUninit::<sd::sd_ctx_params_t>::zeroed();
        // SAFETY: it writes the whole of a structure of this type, with values that its enums have.
        let mut params = unsafe {
            sd::sd_ctx_params_init(params.as_mut_ptr());
            params.assume_init()
        };
        params.model_path = path("--model");
        params.diffusion_model_path = path("--diffusion-model");
        params.vae_path = path("--vae");
        params.taesd_path = path("--taesd");
        params.clip_l_path = path("--clip-l");
        params.clip_g_path = path("--clip-g");
        params.t5xxl_path = path("--t5xxl");
        params.llm_path = path("--llm");
        params.llm_vision_path = path("--llm-vision");
        params.enable_mmap = args.mmap;
        params.diffusion_flash_attn = args.flash_attention;
        if let Some(threads) = args.threads {
            params.n_threads = i32::from(threads);
        }
        if let Some(name) = &args.r#type {
            // SAFETY: it reads a string that ends, and gives a value of the enum.
            params.wtype =
                named(name, "--type", |text| unsafe { sd::str_to_sd_type(text) }, sd::sd_type_t::SD_TYPE_COUNT)?;
        }
        let sampler = args.sampler.as_deref().map(|name| {
            // SAFETY: as above.
            let read = |text| unsafe { sd::str_to_sample_method(text) };
            named(name, "--sampler", read, sd::sample_method_t::SAMPLE_METHOD_COUNT)
        });
        let scheduler = args.scheduler.as_deref().map(|name| {
            // SAFETY: as above.
            let read = |text| unsafe { sd::str_to_scheduler(text) };
            named(name, "--scheduler", read, sd::scheduler_t::SCHEDULER_COUNT)
        });
        let (sampler, scheduler) = (sampler.transpose()?, scheduler.transpose()?);
        // SAFETY: the structure is whole, and its strings live until the end of this function; it keeps none.
        let context = NonNull::new(unsafe { sd::new_sd_ctx(&params) }).map(Model);
        let Some(model) = context else {
            let names: Vec<String> = args.files().map(|(_, path)| path.display().to_string()).collect();
            bail!("stable-diffusion.cpp cannot load {}: {}", names.join(", "), last());
        };
        // SAFETY: the context is alive.
        if !unsafe { sd::sd_ctx_supports_image_generation(model.0.as_ptr()) } {
            bail!("the model makes no pictures; take one that does");
        }
        Ok(Self { model: Mutex::new(model), name, args: args.clone(), sampler, scheduler })
    }

    fn draw(&self, job: &Job<'_>) -> Result<RgbImage, String> {
        let text = |text: &str| CString::new(text.replace('\0', " ")).map_err(|error| error.to_string());
        let (prompt, negative) = (text(job.prompt)?, text(job.negative.unwrap_or_default())?);
        let mut params = MaybeUninit::<sd::sd_img_gen_params_t>::zeroed();
        // SAFETY: it writes the whole of a structure of this type, with values that its enums have.
        let mut params = unsafe {
            sd::sd_img_gen_params_init(params.as_mut_ptr());
            params.assume_init()
        };
        let side = |side: u32| i32::try_from(side).map_err(|error| error.to_string());
        params.prompt = prompt.as_ptr();
        params.negative_prompt = negative.as_ptr();
        (params.width, params.height) = (side(job.width)?, side(job.height)?);
        // A negative seed would be one by chance.
        params.seed = (job.seed & i64::MAX as u64) as i64;
        params.vae_tiling_params.enabled = self.args.vae_tiling;
        let sampling = &mut params.sample_params;
        sampling.sample_steps = side(job.steps.unwrap_or(self.args.steps))?;
        let guidance = job.guidance.unwrap_or(self.args.guidance);
        if self.args.distilled {
            (sampling.guidance.txt_cfg, sampling.guidance.distilled_guidance) = (1.0, guidance);
        } else {
            sampling.guidance.txt_cfg = guidance;
        }
        if let (Some(scale), Some(_)) = (self.args.image_guidance, job.source) {
            sampling.guidance.img_cfg = scale;
        }
        // What it reads of a source; alive until the picture is there.
        let mut source = job.source.map(|source| source.image.clone());
        let mut picture = source.as_mut().map(|image| sd::sd_image_t {
            width: image.width(),
            height: image.height(),
            channel: 3,
            data: image.as_flat_samples_mut().samples.as_mut_ptr(),
        });
        match (&mut picture, self.args.edits) {
            (Some(picture), Edits::Reference) => {
                params.ref_images = picture;
                params.ref_images_count = 1;
                params.auto_resize_ref_image = true;
            }
            (Some(picture), _) => {
                params.init_image = *picture;
                params.strength = job.source.and_then(|source| source.strength).unwrap_or(self.args.strength);
            }
            (None, _) => {}
        }
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let context = model.0.as_ptr();
        // SAFETY: the context is alive.
        let sampler = self.sampler.unwrap_or_else(|| unsafe { sd::sd_get_default_sample_method(context) });
        params.sample_params.sample_method = sampler;
        // SAFETY: as above.
        let usual = || unsafe { sd::sd_get_default_scheduler(context, sampler) };
        params.sample_params.scheduler = self.scheduler.unwrap_or_else(usual);
        LAST.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: the context is alive and locked, and all that the structure points to lives until the end of this function.
        let drawn = NonNull::new(unsafe { sd::generate_image(context, &params) });
        let drawn = drawn.ok_or_else(last)?;
        // SAFETY: it is an array of as many pictures as were asked for, which is one.
        let taken = take(unsafe { drawn.as_ref() });
        // SAFETY: it was given by `generate_image`, and nothing is used of it after this.
        unsafe { sd::free_sd_images(drawn.as_ptr(), 1) };
        taken
    }
}

/// A copy of a picture of stable-diffusion.cpp.
fn take(picture: &sd::sd_image_t) -> Result<RgbImage, String> {
    let Some(data) = NonNull::new(picture.data) else { return Err(last()) };
    let sides = (picture.width as usize).checked_mul(picture.height as usize);
    let length = sides.and_then(|pixels| pixels.checked_mul(3)).filter(|_| picture.channel == 3);
    let length = length.ok_or_else(|| format!("a picture with {} channels", picture.channel))?;
    // SAFETY: a picture of this size has so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr(), length) }.to_vec();
    RgbImage::from_raw(picture.width, picture.height, bytes).ok_or_else(|| "a picture without pixels".into())
}

impl Renderer for Engine {
    fn identity(&self) -> String {
        self.name.clone()
    }

    fn abilities(&self) -> Abilities {
        let edits = self.args.edits != Edits::None;
        Abilities {
            generates: true,
            edits,
            seed: true,
            size: true,
            steps: true,
            guidance: true,
            negative: true,
            strength: self.args.edits == Edits::Img2img,
        }
    }

    fn render(&self, job: &Job<'_>) -> Result<RgbImage, RenderError> {
        self.abilities().check(job)?;
        self.draw(job).map_err(|said| RenderError::Failed { at: "stable-diffusion.cpp".into(), said })
    }
}

/// What makes the same pictures: the program's version, the files, and what jobs do not set.
fn name(args: &Args) -> Result<String> {
    let mut parts = vec![format!("stable-diffusion.cpp of diffusion-rs-sys {BINDING}")];
    for (name, path) in args.files() {
        let metadata = std::fs::metadata(path).with_context(|| format!("{name} {}", path.display()))?;
        if !metadata.is_file() {
            bail!("{name} {} is no file", path.display());
        }
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        parts.push(format!("{file} ({} bytes)", metadata.len()));
    }
    let guidance = if args.distilled { "distilled guidance" } else { "guidance" };
    parts.push(format!("{} steps, {guidance} {}", args.steps, args.guidance));
    parts.extend([&args.sampler, &args.scheduler, &args.r#type].into_iter().flatten().cloned());
    if args.edits != Edits::None {
        parts.push(format!("edits by {:?}, {}", args.edits, args.strength).to_lowercase());
        parts.extend(args.image_guidance.map(|scale| format!("guidance by the picture {scale}")));
    }
    Ok(parts.join(", "))
}

fn path_for_c(path: &Path) -> Result<CString> {
    let text =
        path.to_str().with_context(|| format!("{} is not UTF-8, as stable-diffusion.cpp has paths", path.display()))?;
    Ok(CString::new(text)?)
}

/// The value of an enum by its name; `unknown` is what comes where there is none of that name.
fn named<T: Copy + PartialEq>(name: &str, flag: &str, read: impl Fn(*const c_char) -> T, unknown: T) -> Result<T> {
    let text = CString::new(name)?;
    let value = read(text.as_ptr());
    if value == unknown {
        bail!("{flag} {name} is not known to stable-diffusion.cpp");
    }
    Ok(value)
}

/// What it complained of last, on one line.
fn last() -> String {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_empty() { "it does not say why".into() } else { last.clone() }
}

/// Takes what stable-diffusion.cpp says.
unsafe extern "C" fn log(level: sd::sd_log_level_t, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: it is a string that ends, and lives for this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    let bad = matches!(level, sd::sd_log_level_t::SD_LOG_WARN | sd::sd_log_level_t::SD_LOG_ERROR);
    if level == sd::sd_log_level_t::SD_LOG_ERROR {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if bad || VERBOSE.load(Ordering::Relaxed) {
        eprintln!("{text}");
    }
}

/// Steps are told to nobody: it would print a bar to standard output by itself.
unsafe extern "C" fn progress(_: i32, _: i32, _: f32, _: *mut c_void) {}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_dependency() {
        assert!(include_str!("../Cargo.toml").contains(&format!("diffusion-rs-sys = \"={}\"", super::BINDING)));
    }
}
