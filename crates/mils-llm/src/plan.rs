//! How many answers are written side by side: a function of what the model weighs and what the machine can do.

/// What of a model matters to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// All its weights, in bytes: what a step reads, however many answers it is for.
    pub bytes: f64,
    /// How many they are: a step multiplies and adds with each, for each answer.
    pub parameters: f64,
    /// Bytes of the KV cache for a token.
    pub cell: f64,
}

/// What of a machine matters to it, roughly: by how much a figure is off, the result is off at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Bytes read in a second.
    pub bandwidth: f64,
    /// Floating-point operations in a second.
    pub flops: f64,
    /// Seconds that a step takes with a model of no size: threads meet, kernels are launched.
    pub overhead: f64,
    /// Bytes that the KV cache may take.
    pub memory: f64,
}

impl Machine {
    /// A CPU. A core multiplies 60 GFLOP/s and reads 12 GB/s; all together read no more than 60 GB/s, which is what
    /// desktops have.
    pub(crate) fn cpu(threads: usize, memory: f64) -> Self {
        let threads = threads.max(1) as f64;
        Self { bandwidth: (12e9 * threads).min(60e9), flops: 60e9 * threads, overhead: 0.3e-3, memory }
    }

    /// A graphics card of the middle of the range. Larger ones have more of both.
    pub(crate) fn gpu(memory: f64) -> Self {
        Self { bandwidth: 500e9, flops: 40e12, overhead: 1e-3, memory }
    }

    /// A GPU that shares the CPU's memory.
    pub(crate) fn integrated_gpu(memory: f64) -> Self {
        Self { bandwidth: 80e9, flops: 3e12, overhead: 1e-3, memory }
    }
}

/// Tokens that the KV cache has cells for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// For all prompts together.
    pub prompts: usize,
    /// For each answer.
    pub answer: usize,
}

/// So many times the even number give four fifths of the throughput: see [`suiting`].
const TIMES: f64 = 4.0;

/// How many of `wanted` answers are best written side by side.
///
/// A step for `n` answers takes about `fixed + n * each`: the weights are read once (`fixed`, with the overhead), and
/// multiplied with for each answer. So `n` answers get the share `n / (n + even)` of all the throughput that there can
/// be, where `even = fixed / each` is the number with which half the time goes into each. More than what gives
/// four fifths of it wins little, takes memory, and makes the first answers come later, which are scored meanwhile.
/// Answers that are too many for one round are spread evenly over rounds.
pub(crate) fn suiting(wanted: usize, weight: Weight, machine: Machine, room: Room) -> usize {
    let fixed = weight.bytes / machine.bandwidth + machine.overhead;
    let each = 2.0 * weight.parameters / machine.flops;
    let even = fixed / each.max(f64::MIN_POSITIVE);
    let enough = (even * TIMES).ceil();
    let cells = machine.memory / weight.cell.max(1.0) - room.prompts as f64;
    let fitting = (cells / room.answer.max(1) as f64).floor();
    // `as` saturates, and makes no number 0.
    let most = (enough.min(fitting) as usize).max(1);
    let rounds = wanted.div_ceil(most).max(1);
    wanted.div_ceil(rounds).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1_u64 << 30) as f64;
    const ROOM: Room = Room { prompts: 4096, answer: 96 };

    /// A model of so many billion weights, of so many bytes each, with 128 KiB a cell.
    fn model(billions: f64, bytes: f64) -> Weight {
        Weight { bytes: billions * 1e9 * bytes, parameters: billions * 1e9, cell: 131_072.0 }
    }

    #[test]
    fn a_cpu_is_busy_with_few_answers_and_a_gpu_takes_many() {
        let cpu = Machine::cpu(8, 32.0 * GIB);
        let gpu = Machine::gpu(16.0 * GIB);
        let of = |weight, machine| suiting(50, weight, machine, ROOM);
        // With eight answers the arithmetic takes as long as reading weights of 16 bits: four times as many are enough.
        assert_eq!(of(model(8.0, 2.0), cpu), 25);
        // Weights of 4.5 bits are read in less of the time.
        assert_eq!(of(model(8.0, 0.56), cpu), 9);
        assert_eq!(of(model(8.0, 2.0), gpu), 50);
        assert_eq!(of(model(8.0, 0.56), gpu), 50);
    }

    #[test]
    fn a_tiny_model_is_all_overhead() {
        let tiny = Weight { bytes: 4.7e6, parameters: 2.3e6, cell: 4096.0 };
        assert_eq!(suiting(32, tiny, Machine::cpu(2, GIB), ROOM), 32);
    }

    #[test]
    fn answers_are_spread_evenly_over_rounds() {
        let cpu = Machine { bandwidth: 1.0, flops: 1.0, overhead: 0.0, memory: f64::INFINITY };
        // Half the time goes into each with 2.5 answers: ten are enough.
        let weight = Weight { bytes: 5.0, parameters: 1.0, cell: 1.0 };
        let of = |wanted| suiting(wanted, weight, cpu, ROOM);
        assert_eq!([of(1), of(10), of(11), of(12), of(30), of(32)], [1, 10, 6, 6, 10, 8]);
    }

    #[test]
    fn memory_is_the_limit_where_there_is_little() {
        // 10,000 cells: the prompts take 4,096 of them, each answer 96.
        let machine = |cells: f64| Machine { memory: cells * 131_072.0, ..Machine::gpu(0.0) };
        assert_eq!(suiting(255, model(8.0, 2.0), machine(10_000.0), ROOM), 51);
        assert_eq!(suiting(50, model(8.0, 2.0), machine(4_096.0 + 25.0 * 96.0), ROOM), 25);
        // Not even one fits: that it cannot be had is said by who asks for the memory.
        for cells in [0.0, 100.0, 4_100.0] {
            assert_eq!(suiting(50, model(8.0, 2.0), machine(cells), ROOM), 1, "{cells}");
        }
        assert_eq!(suiting(0, model(8.0, 2.0), machine(1e6), ROOM), 1);
    }
}
