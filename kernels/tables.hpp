// What makes the tables of patterns on any device: their work, an item at a time (splash/patterns/tables).
#pragma once

#include "kernels/registry.hpp"
#include "splash/patterns/tables/big_bird.hpp"
#include "splash/patterns/tables/chosen_blocks.hpp"
#include "splash/patterns/tables/longnet.hpp"
#include "splash/patterns/tables/sparse_rows.hpp"

namespace splash::kernels {

namespace tables = patterns::tables;

/// Runs all items of the work, on CUDA on the execution's stream. no_kernel where the build has none for the GPU.
template <class Work>
SPLASH_API Status each(const Work& work, Arch arch, const Execution& execution);

}  // namespace splash::kernels

/// Every kind of work, for what is compiled of them.
#define SPLASH_TABLE_WORK(DO)                \
  DO(tables::PackBits<tables::KeptScores>);  \
  DO(tables::PackBits<tables::KeptTiles>);   \
  DO(tables::PackTiles);                     \
  DO(tables::IndexTiles);                    \
  DO(tables::IndexRanges);                   \
  DO(tables::DenseRows);                     \
  DO(tables::TileRows);                      \
  DO(tables::BigBirdRows);                   \
  DO(tables::BigBirdColumns);                \
  DO(tables::BlockMeans<float, float>);      \
  DO(tables::BlockMeans<half_t, float>);     \
  DO(tables::BlockMeans<bfloat16_t, float>); \
  DO(tables::BlockMeans<double, double>);    \
  DO(tables::EarlierScores<float>);          \
  DO(tables::EarlierScores<double>);         \
  DO(tables::ChooseBlocks<float>);           \
  DO(tables::ChooseBlocks<double>);          \
  DO(tables::LongNetTake<uint16_t>);         \
  DO(tables::LongNetTake<uint32_t>);         \
  DO(tables::LongNetTake<uint64_t>);         \
  DO(tables::LongNetAdd<float, float>);      \
  DO(tables::LongNetAdd<half_t, float>);     \
  DO(tables::LongNetAdd<bfloat16_t, float>); \
  DO(tables::LongNetAdd<double, double>);    \
  DO(tables::LongNetLengths);
