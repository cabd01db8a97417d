// What a Hopper attention kernel of either pass is tuned by: named numbers, and which of them can be.
#pragma once

namespace splash::tuning {

/// Rows are queries, or in the key-major kernels of the backward keys; columns are the other ones.
struct TileSm90 {
  int consumers;  ///< consumer warp groups, of 64 rows each
  int columns;    ///< a step
};

struct PipelineSm90 {
  int first_stages;     ///< tiles of columns in flight: K, or Q where keys are rows
  int second_stages;    ///< V, or dO
  int row_buffers = 1;  ///< tiles of rows: 2 where the next one is loaded while one is worked on
  int mask_slots = 1;   ///< partial tiles whose mask bits exist at a time
};

struct WarpsSm90 {
  int producers = 4;      ///< warps, of each team
  int teams = 1;          ///< of consumers and producers: each works on pieces of its own
  int blocks_per_sm = 1;  ///< blocks of threads a multiprocessor is asked to hold
};

/// setmaxnreg of a thread, multiples of 8; 0: none.
struct RegistersSm90 {
  int consumer = 0, producer = 0;
};

struct ScheduleSm90 {
  bool pingpong = false;  ///< consumer groups take turns to issue their products
  bool early = false;     ///< a turn ends when S and dP are asked for, not when S is there
  bool overlap = false;   ///< S of the next tile is asked for before the products of this one have ended
  /// The results of a piece leave under the first products of the next one, whose first rows are there by then.
  bool epilogue_overlap = false;
  bool by_output = false;  ///< one consumer group finds dV, the other one dK, of the same 64 rows
};

struct KernelSm90 {
  TileSm90 tile;
  PipelineSm90 pipeline;
  WarpsSm90 warps = {};
  RegistersSm90 registers = {};
  ScheduleSm90 schedule = {};

  constexpr int threads() const { return warps.teams * (128 * tile.consumers + 32 * warps.producers); }
  /// Of a thread, that a block gets at its launch.
  constexpr int launch_registers() const { return 65536 / warps.blocks_per_sm / threads() / 8 * 8; }
  /// Bytes of shared memory that a block of threads may have; the system keeps a kilobyte of each.
  constexpr int shared_limit() const { return 227 * 1024 / warps.blocks_per_sm - (warps.blocks_per_sm - 1) * 512; }
};

/// Why a kernel cannot be tuned so; nullptr: it can.
constexpr const char* misfit(const KernelSm90& kernel) {
  const auto& [tile, pipeline, warps, registers, schedule] = kernel;
  if (tile.consumers < 1 || tile.consumers > 3) return "a block of threads has one to three consumer warp groups";
  if (tile.columns < 16 || tile.columns > 256 || tile.columns % 16) return "wgmma steps 16 deep, 256 columns at most";
  if (pipeline.first_stages < 1 || pipeline.second_stages < 1 || pipeline.mask_slots < 1)
    return "each pipeline has a stage at least";
  if (pipeline.row_buffers < 1 || pipeline.row_buffers > 2) return "there are one or two tiles of rows";
  if (warps.producers < 1 || warps.blocks_per_sm < 1) return "a block of threads has a producer warp at least";
  if (warps.teams != 1 && (warps.teams != 2 || tile.consumers != 1)) return "named barriers: two teams of one group";
  if (kernel.threads() > 1024) return "a block of threads has 1024 threads at most";
  if (registers.consumer % 8 || registers.producer % 8 || registers.consumer > 240 || registers.producer > 240)
    return "setmaxnreg takes multiples of 8 up to 240";
  if ((registers.consumer == 0) != (registers.producer == 0)) return "setmaxnreg is for both roles or for none";
  if (registers.consumer && warps.teams * warps.producers != 4) return "setmaxnreg takes whole warp groups";
  // More than the block got at its launch never come, and the block would wait for ever.
  if (warps.teams * tile.consumers * registers.consumer + registers.producer >
      kernel.launch_registers() * (warps.teams * tile.consumers + 1))
    return "setmaxnreg asks for more registers than the launch gave the block of threads";
  if (schedule.pingpong && tile.consumers < 2) return "taking turns needs two consumer groups";
  if (schedule.early && !schedule.pingpong) return "only a turn can end early";
  if (schedule.by_output && tile.consumers != 2) return "one group for each output";
  return nullptr;
}

}  // namespace splash::tuning
