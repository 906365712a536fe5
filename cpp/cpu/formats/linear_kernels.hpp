// The loops, for any instruction set L. Include it after the lanes, inside the file's `#pragma GCC target`.
//
// kParts: 2 where inputs are bfloat16, so that x v^T is kept as the sum of two. A lane type has Element (of weights),
// Input (of x), Weights, Acc, kColumns and the static functions zero, multiply, plus, sum, whole and load (kColumns or
// fewer dense weights), expand_half (kColumns / 2 stored values by their mask), expand (as many as the mask says),
// store and reload (weights as Input), mask, masks_of_nibbles.
#pragma once

#include "cpu/formats/linear_rows.hpp"

namespace sparlow::cpu {
namespace {

constexpr Index kMetaBytes = 512;  // of a row, decoded at a time
constexpr int kRowTile = 4;
constexpr Index kFewTokens = 4;

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }

// Walks one row of s from left to right.
template <class L, Format F>
struct RowReader {
  using Element = typename L::Element;

  const Element *values, *end;
  const std::uint8_t* meta;
  alignas(64) std::uint8_t masks[F == Format::dense ? 1 : kMetaBytes + 64];

  void begin(const RowJob& job, Index row) {
    meta = job.meta == nullptr ? nullptr : job.meta + row * ((job.d_in + 7) / 8);
    const Element* all = static_cast<const Element*>(job.values);
    if constexpr (F == Format::nm24) values = all + row * (job.d_in / 2), end = values + job.d_in / 2;
    if constexpr (F == Format::dense) values = all + row * job.d_in, end = values + job.d_in;
    if constexpr (F == Format::bitmap) values = all + job.starts[row], end = all + job.starts[row + 1];
  }

  // Must come before `next` of the columns c to c + 8 kMetaBytes - 1; `columns` are left from c on.
  void decode(Index c, Index columns) {
    if constexpr (F == Format::dense) return;
    const Index bytes = smaller(kMetaBytes, (columns + 7) / 8);
    if constexpr (F == Format::nm24) L::masks_of_nibbles(meta + c / 8, bytes, masks);
    if constexpr (F == Format::bitmap)
      for (Index i = 0; i < bytes; ++i) masks[i] = meta[c / 8 + i];
    for (Index i = bytes; i < bytes + 8; ++i) masks[i] = 0;
  }

  // The next kColumns weights, of columns from j on, counted from where decode began.
  typename L::Weights full(const Element*& next, Index j) const {
    if constexpr (F == Format::dense) {
      const auto weights = L::whole(next);
      next += L::kColumns;
      return weights;
    } else {
      const auto mask = L::mask(masks + j / 8);
      const auto weights = F == Format::nm24 ? L::expand_half(next, mask) : L::expand(next, end - next, mask);
      next += F == Format::nm24 ? L::kColumns / 2 : __builtin_popcount(mask);
      return weights;
    }
  }
  // Fewer: `columns` are left in the row.
  typename L::Weights partial(const Element*& next, Index j, Index columns) const {
    if constexpr (F == Format::dense) return L::load(next, columns);
    const auto mask = L::mask(masks + j / 8);
    return L::expand(next, end - next, mask);
  }
};

// Calls use(weights of each row, j) for the columns [0, count) from where decode began; `columns` are left in the rows.
template <class L, Format F, int R, class Use>
inline __attribute__((always_inline)) void walk(RowReader<L, F> (&readers)[R], Index count, Index columns, Use&& use) {
  const typename L::Element* next[R];  // locals: stores to other memory cannot change them
  typename L::Weights weights[R];
  for (int r = 0; r < R; ++r) next[r] = readers[r].values;
  Index j = 0;
  for (; j + L::kColumns <= count; j += L::kColumns) {
    for (int r = 0; r < R; ++r) weights[r] = readers[r].full(next[r], j);
    use(weights, j);
  }
  if (j < count) {
    for (int r = 0; r < R; ++r) weights[r] = readers[r].partial(next[r], j, columns - j);
    use(weights, j);
  }
  for (int r = 0; r < R; ++r) readers[r].values = next[r];
}

// Products of R rows with T tokens; independent sums hide the latency of an addition.
template <class L, int R, int T>
struct Sums {
  typename L::Acc acc[R][T];

  Sums() {
    for (int r = 0; r < R; ++r)
      for (int t = 0; t < T; ++t) acc[r][t] = L::zero();
  }
  inline __attribute__((always_inline)) void add(const typename L::Weights (&w)[R], const typename L::Input* x,
                                                 Index stride) {
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) L::multiply(acc[r][t], w[r], x + t * stride);
  }
};

template <class L, class Out>
void put(const RowJob& job, Index row, Index token, float sum) {
  if (job.bias != nullptr) sum += to_float(static_cast<const typename L::Element*>(job.bias)[row]);
  from_float(sum, static_cast<Out*>(job.y)[token * job.y_stride + row]);
}

template <class L>
void put(const RowJob& job, Index row, Index token, float sum) {
  if (!job.like_x) return put<L, typename L::Element>(job, row, token, sum);
  put<L, typename L::Input>(job, row, token, sum);
  if constexpr (L::kParts == 2) {
    typename L::Input* rounded = static_cast<typename L::Input*>(job.y) + token * job.y_stride + row;
    from_float(sum - to_float(*rounded), rounded[job.inner_part]);
  }
}

// R rows, T tokens: every weight is used as soon as it is read.
template <class L, Format F, int R, int T>
void few(const RowJob& job, Index row, Index token) {
  using Input = typename L::Input;
  const Input* x = static_cast<const Input*>(job.x) + token * job.x_stride;
  RowReader<L, F> readers[R];
  for (int r = 0; r < R; ++r) readers[r].begin(job, row + r);
  Sums<L, R, T> sums;
  for (Index c = 0; c < job.d_in; c += 8 * kMetaBytes) {
    const Index left = job.d_in - c, here = smaller(8 * kMetaBytes, left);
    for (int r = 0; r < R; ++r) readers[r].decode(c, left);
    walk(readers, here, left, [&](const typename L::Weights(&w)[R], Index j) __attribute__((always_inline)) {
      sums.add(w, x + c + j, job.x_stride);
    });
  }
  const auto* u = static_cast<const typename L::Element*>(job.u) + row * job.rank;
  const Input* inner = static_cast<const Input*>(job.inner) + token * job.inner_stride;
  for (Index j = 0; j < job.rank; j += L::kColumns) {
    typename L::Weights w[R];
    for (int r = 0; r < R; ++r) w[r] = L::load(u + r * job.rank + j, job.rank - j);
    for (int part = 0; part < L::kParts; ++part) sums.add(w, inner + part * job.inner_part + j, job.inner_stride);
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) put<L>(job, row + r, token + t, L::sum(sums.acc[r][t]));
}

// kRowTile dense rows in `weights` against all tokens; the products are added to `totals`.
template <class L>
struct Block {
  static constexpr Index kColumns = 4096 / static_cast<Index>(sizeof(typename L::Input));
  static_assert(kColumns <= 8 * kMetaBytes);

  alignas(64) typename L::Input weights[kRowTile][kColumns];
  float totals[kRowTile][kTokenTile] = {};

  void multiply(const typename L::Input* x, Index stride, Index tokens, Index columns) {
    Index t = 0;
    for (; t + 4 <= tokens; t += 4) tile<4>(x + t * stride, stride, t, columns);
    for (; t < tokens; ++t) tile<1>(x + t * stride, stride, t, columns);
  }

  template <int T>
  void tile(const typename L::Input* x, Index stride, Index token, Index columns) {
    Sums<L, kRowTile, T> sums;
    for (Index j = 0; j < columns; j += L::kColumns) {
      typename L::Weights w[kRowTile];
      for (int r = 0; r < kRowTile; ++r) w[r] = L::reload(weights[r] + j);
      sums.add(w, x + j, stride);
    }
    for (int r = 0; r < kRowTile; ++r)
      for (int t = 0; t < T; ++t) totals[r][token + t] += L::sum(sums.acc[r][t]);
  }
};

// kRowTile rows, many tokens: the rows are unpacked once, into the first-level cache.
template <class L, Format F>
void many(const RowJob& job, Index row) {
  using Input = typename L::Input;
  Block<L> block;
  RowReader<L, F> readers[kRowTile];
  for (int r = 0; r < kRowTile; ++r) readers[r].begin(job, row + r);
  for (Index c = 0; c < job.d_in; c += Block<L>::kColumns) {
    const Index left = job.d_in - c, here = smaller(Block<L>::kColumns, left);
    for (int r = 0; r < kRowTile; ++r) readers[r].decode(c, here);
    walk(readers, here, left, [&](const typename L::Weights(&w)[kRowTile], Index j) __attribute__((always_inline)) {
      for (int r = 0; r < kRowTile; ++r) L::store(w[r], block.weights[r] + j);
    });
    block.multiply(static_cast<const Input*>(job.x) + c, job.x_stride, job.tokens, here);
  }
  const auto* u = static_cast<const typename L::Element*>(job.u) + row * job.rank;
  for (Index c = 0; c < job.rank; c += Block<L>::kColumns) {
    const Index left = job.rank - c, here = smaller(Block<L>::kColumns, left);
    for (int r = 0; r < kRowTile; ++r)
      for (Index j = 0; j < here; j += L::kColumns)
        L::store(L::load(u + r * job.rank + c + j, left - j), block.weights[r] + j);
    for (int part = 0; part < L::kParts; ++part)
      block.multiply(static_cast<const Input*>(job.inner) + part * job.inner_part + c, job.inner_stride, job.tokens,
                     here);
  }
  for (int r = 0; r < kRowTile; ++r)
    for (Index t = 0; t < job.tokens; ++t) put<L>(job, row + r, t, block.totals[r][t]);
}

// One row, one token: what counts is that the row is read as one stream, as fast as memory gives it.
template <class L, Format F>
void single(const RowJob& job, Index row) {
  using Input = typename L::Input;
  constexpr int kChains = 4;  // sums that do not wait for each other
  const Input* x = static_cast<const Input*>(job.x);
  RowReader<L, F> reader;
  reader.begin(job, row);
  typename L::Acc acc[kChains] = {L::zero(), L::zero(), L::zero(), L::zero()};
  for (Index c = 0; c < job.d_in; c += 8 * kMetaBytes) {
    const Index left = job.d_in - c, here = smaller(8 * kMetaBytes, left);
    reader.decode(c, left);
    const typename L::Element* next = reader.values;
    Index j = 0;
    for (; j + kChains * L::kColumns <= here; j += kChains * L::kColumns)
      for (int k = 0; k < kChains; ++k) {
        const Index column = j + k * L::kColumns;
        L::multiply(acc[k], reader.full(next, column), x + c + column);
      }
    for (; j + L::kColumns <= here; j += L::kColumns) L::multiply(acc[0], reader.full(next, j), x + c + j);
    if (j < here) L::multiply(acc[0], reader.partial(next, j, left - j), x + c + j);
    reader.values = next;
  }
  const auto* u = static_cast<const typename L::Element*>(job.u) + row * job.rank;
  for (Index j = 0; j < job.rank; j += L::kColumns)
    for (int part = 0; part < L::kParts; ++part)
      L::multiply(acc[1 + part], L::load(u + j, job.rank - j),
                  static_cast<const Input*>(job.inner) + part * job.inner_part + j);
  put<L>(job, row, 0, L::sum(L::plus(L::plus(acc[0], acc[1]), L::plus(acc[2], acc[3]))));
}

// R rows, up to kFewTokens tokens.
template <class L, Format F, int R>
void few(const RowJob& job, Index row) {
  Index t = 0;
  for (; t + 4 <= job.tokens; t += 4) few<L, F, R, 4>(job, row, t);
  for (; t + 2 <= job.tokens; t += 2) few<L, F, R, 2>(job, row, t);
  for (; t < job.tokens; ++t) few<L, F, R, 1>(job, row, t);
}

template <class L, Format F>
void rows(const RowJob& job, Index begin, Index end) {
  Index row = begin;
  if (job.tokens == 1)
    for (; row < end; ++row) single<L, F>(job, row);
  for (; row + kRowTile <= end; row += kRowTile)
    if (job.tokens > kFewTokens) many<L, F>(job, row);
    else few<L, F, kRowTile>(job, row);
  for (; row < end; ++row) few<L, F, 1>(job, row);
}

template <class L>
void fill(RowKernels& kernels, DType dtype) {
  Rows** row = kernels.rows[static_cast<int>(dtype)];
  row[static_cast<int>(Format::nm24)] = rows<L, Format::nm24>;
  row[static_cast<int>(Format::bitmap)] = rows<L, Format::bitmap>;
  row[static_cast<int>(Format::dense)] = rows<L, Format::dense>;
}

// The table of one instruction set, of its lanes for each element type.
template <class OfBf16, class OfF16, class OfF32>
RowKernels table(const char* name) {
  RowKernels kernels;
  fill<OfBf16>(kernels, DType::bf16);
  fill<OfF16>(kernels, DType::f16);
  fill<OfF32>(kernels, DType::f32);
  kernels.bf16_inputs = OfBf16::kParts == 2;
  kernels.name = name;
  return kernels;
}

}  // namespace
}  // namespace sparlow::cpu
