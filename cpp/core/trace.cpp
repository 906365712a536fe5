#include <chrono>

#include "sparlow/decorators.hpp"

namespace sparlow {

// Gives decorators the protected operations of the backend they wrap.
class BackendDecorator : public Backend {
 protected:
  explicit BackendDecorator(Backend& inner) : inner_(inner) {}
  static std::shared_ptr<void> allocate(Backend& b, std::size_t bytes) { return b.do_allocate(bytes); }
  static void upload(Backend& b, const float* values, View out) { b.do_upload(values, out); }
  static void download(Backend& b, ConstView x, float* values) { b.do_download(x, values); }

  Backend& inner_;
};

namespace {

using Counts = std::shared_ptr<std::map<std::string, OpCount>>;

double elements(Index rows, Index cols) { return static_cast<double>(rows) * static_cast<double>(cols); }

class Recorder {
 public:
  Recorder(Backend& backend, Counts counts) : backend_(backend), counts_(std::move(counts)) {}

  template <typename Call>
  auto operator()(const char* op, double flops, double bytes, Call&& call) const {
    const Stop stop{*this, op, flops, bytes, std::chrono::steady_clock::now()};
    return call();
  }

 private:
  struct Stop {  // records when the call returns, also by exception
    const Recorder& recorder;
    const char* op;
    double flops, bytes;
    std::chrono::steady_clock::time_point start;
    ~Stop() {
      recorder.backend_.wait();
      OpCount& count = (*recorder.counts_)[op];
      ++count.calls;
      count.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      count.flops += flops;
      count.bytes += bytes;
    }
  };

  Backend& backend_;
  Counts counts_;
};

class TraceFactor final : public GramFactor {
 public:
  TraceFactor(std::unique_ptr<GramFactor> inner, Recorder record) : inner_(std::move(inner)), record_(record) {}
  ConstView matrix() const override { return inner_->matrix(); }

 protected:
  void do_set_shift(double shift) override {
    const double n = static_cast<double>(size());
    record_("set_shift", n * n * n, 8 * n * n, [&] { inner_->set_shift(shift); });
  }
  void do_apply_smoother(ConstView x, View y) override {
    record_("apply_smoother", flops(x), bytes(x), [&] { inner_->apply_smoother(x, y); });
  }
  void do_smoother_diagonal(View out) override {
    record_("smoother_diagonal", 0, 8 * static_cast<double>(size()), [&] { inner_->smoother_diagonal(out); });
  }

 private:
  double flops(ConstView x) const { return 2 * elements(x.rows, x.cols) * static_cast<double>(size()); }
  double bytes(ConstView x) const { return 4 * (2 * elements(x.rows, x.cols) + elements(size(), size())); }

  std::unique_ptr<GramFactor> inner_;
  Recorder record_;
};

}  // namespace

class TraceBackend final : public BackendDecorator {
 public:
  TraceBackend(Backend& inner, Counts counts) : BackendDecorator(inner), record_(inner, std::move(counts)) {}
  std::string_view name() const override { return inner_.name(); }
  void set_precision(Precision precision) override { inner_.set_precision(precision); }
  void wait() override { inner_.wait(); }

 protected:
  std::shared_ptr<void> do_allocate(std::size_t bytes) override {
    return record_("allocate", 0, static_cast<double>(bytes), [&] { return allocate(inner_, bytes); });
  }
  void do_upload(const float* values, View out) override {
    record_("upload", 0, 4 * elements(out.rows, out.cols), [&] { upload(inner_, values, out); });
  }
  void do_download(ConstView x, float* values) override {
    record_("download", 0, 4 * elements(x.rows, x.cols), [&] { download(inner_, x, values); });
  }
  void do_copy(ConstView x, View out) override {
    record_("copy", 0, moved(x, 2), [&] { inner_.copy(x, out); });
  }
  void do_copy_mask(ConstMaskView x, MaskView out) override {
    record_("copy_mask", 0, 2 * elements(x.rows, x.cols), [&] { inner_.copy_mask(x, out); });
  }
  void do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
               Accuracy accuracy) override {
    const Index inner = op_a == Op::none ? a.cols : a.rows;
    record_("gemm", 2 * elements(c.rows, c.cols) * static_cast<double>(inner), moved(a) + moved(b) + moved(c),
            [&] { inner_.gemm(alpha, a, op_a, b, op_b, beta, c, accuracy); });
  }
  void do_gram_update(TypedView x, View gram) override {
    const double d = static_cast<double>(gram.cols), rows = static_cast<double>(x.rows);
    record_("gram_update", rows * d * d, (x.dtype == DType::f32 ? 4 : 2) * rows * d + 4 * d * d,
            [&] { inner_.gram_update(x, gram); });
  }
  void do_symmetrise(View gram) override {
    record_("symmetrise", 0, moved(gram), [&] { inner_.symmetrise(gram); });
  }
  void do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) override {
    record_("normalise_gram", 2 * elements(gram.rows, gram.cols), moved(gram, 2),
            [&] { inner_.normalise_gram(gram, inverse_scale, diagonal, out); });
  }
  void do_shrink(View x, double threshold) override {
    record_("shrink", 2 * elements(x.rows, x.cols), moved(x, 2), [&] { inner_.shrink(x, threshold); });
  }
  void do_axpby(double alpha, ConstView x, double beta, View y) override {
    record_("axpby", 3 * elements(x.rows, x.cols), moved(x, 3), [&] { inner_.axpby(alpha, x, beta, y); });
  }
  void do_scale_columns(View x, ConstView scale, bool inverse) override {
    record_("scale_columns", elements(x.rows, x.cols), moved(x, 2), [&] { inner_.scale_columns(x, scale, inverse); });
  }
  void do_randn(View out, std::uint64_t seed) override {
    record_("randn", 0, moved(out), [&] { inner_.randn(out, seed); });
  }
  void do_orthonormalise(View y) override {
    record_("orthonormalise", 4 * elements(y.rows, y.cols) * static_cast<double>(y.cols), moved(y, 4),
            [&] { inner_.orthonormalise(y); });
  }
  void do_small_eigh(View a, View values) override {
    const double n = static_cast<double>(a.rows);
    record_("small_eigh", 9 * n * n * n, moved(a, 2), [&] { inner_.small_eigh(a, values); });
  }
  std::unique_ptr<GramFactor> do_factor(ConstView gram) override {
    return std::make_unique<TraceFactor>(inner_.factor(gram), record_);
  }
  void do_inverse_factor(ConstView gram, View u, View diagonal) override {
    const double n = static_cast<double>(gram.rows);
    record_("inverse_factor", 2 * n * n * n / 3, moved(gram, 2), [&] { inner_.inverse_factor(gram, u, diagonal); });
  }
  bool do_all_finite(ConstView x) override {
    return record_("all_finite", 0, moved(x), [&] { return inner_.fetch_all_finite(x); });
  }
  double do_dot(ConstView x, ConstView y) override {
    return record_("dot", 2 * elements(x.rows, x.cols), moved(x, 2), [&] { return inner_.fetch_dot(x, y); });
  }
  double do_quadratic(ConstView e, ConstView gram) override {
    return record_("quadratic", 2 * elements(e.rows, e.cols) * static_cast<double>(e.cols), moved(e) + moved(gram),
                   [&] { return inner_.fetch_quadratic(e, gram); });
  }
  void do_project(ConstView score, const Pattern& pattern, MaskView mask) override {
    record_("project", 0, 5 * elements(score.rows, score.cols), [&] { inner_.project(score, pattern, mask); });
  }
  void do_nonzeros(ConstView x, MaskView mask) override {
    record_("nonzeros", 0, 5 * elements(x.rows, x.cols), [&] { inner_.nonzeros(x, mask); });
  }
  void do_signs(ConstView x, MaskView mask) override {
    record_("signs", 0, 5 * elements(x.rows, x.cols), [&] { inner_.signs(x, mask); });
  }
  Index do_changed(ConstMaskView a, ConstMaskView b) override {
    return record_("changed", 0, 2 * elements(a.rows, a.cols), [&] { return inner_.fetch_changed(a, b); });
  }
  void do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) override {
    record_("scale_by_mask", elements(x.rows, x.cols), 9 * elements(x.rows, x.cols),
            [&] { inner_.scale_by_mask(x, mask, kept, pruned); });
  }
  void do_admm_step(GramFactor& factor, AdmmStep& step) override {
    const double n = elements(step.w.rows, step.w.cols);  // the large product inside is counted as apply_smoother
    record_("admm_step", 6 * n, 4 * 9 * n + 3 * n, [&] { inner_.admm_step(factor, step); });
  }
  void do_admm_reflect(AdmmStep& step) override {
    const double n = elements(step.w.rows, step.w.cols);
    record_("admm_reflect", 2 * n, 4 * 4 * n + n, [&] { inner_.admm_reflect(step); });
  }
  void do_signed_gather(SignedTurn& turn) override {
    record_("signed_gather", 2 * elements(turn.t.rows, turn.t.cols), 19 * elements(turn.t.rows, turn.t.cols),
            [&] { inner_.signed_gather(turn); });
  }
  void do_signed_spread(SignedTurn& turn) override {
    record_("signed_spread", 2 * elements(turn.t.rows, turn.t.cols), 21 * elements(turn.t.rows, turn.t.cols),
            [&] { inner_.signed_spread(turn); });
  }
  void do_cg_start(CgState& state) override {
    record_("cg_start", 2 * count(state), moved(state.gap, 3), [&] { inner_.cg_start(state); });
  }
  void do_cg_move(CgState& state) override {
    record_("cg_move", 8 * count(state), moved(state.gap, 7), [&] { inner_.cg_move(state); });
  }
  void do_cg_turn(CgState& state) override {
    record_("cg_turn", 8 * count(state), moved(state.gap, 5), [&] { inner_.cg_turn(state); });
  }
  void do_prune_columns(ColumnPruning& block) override {
    const double n = elements(block.w.rows, block.w.cols);
    record_("prune_columns", n * static_cast<double>(block.w.cols), 13 * n, [&] { inner_.prune_columns(block); });
  }

 private:
  static double count(const CgState& state) { return elements(state.gap.rows, state.gap.cols); }
  static double moved(ConstView x, double times = 1) { return times * 4 * elements(x.rows, x.cols); }

  Recorder record_;
};

Trace make_trace(Backend& inner) {
  auto counts = std::make_shared<std::map<std::string, OpCount>>();
  return {std::make_unique<TraceBackend>(inner, counts), counts};
}

}  // namespace sparlow
